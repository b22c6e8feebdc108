"""Twelve requests that have as little in common as the tiny model allows."""

from danqing import Request

LONG = "a small red fox in the snow under a blue sky, 旁边有一棵树, oil painting, high quality " * 3

REQUESTS = [
    Request("a red fox", seed=1, guidance=1.0),
    Request("a red fox", seed=2, guidance=4.0),
    Request("一只红色的狐狸", seed=1, size=(32, 96), guidance=3.0, negative="模糊"),
    Request("一只红色的狐狸", seed=1, size=(96, 32), guidance=1.0, steps=3),
    Request("", seed=5, size=(32, 32), steps=1, guidance=2.5),
    Request("a cat", seed=6, size=(128, 112), steps=4, guidance=1.0),
    Request("一只猫", seed=7, size=(80, 48), sigmas=(1.0, 0.9, 0.5), guidance=1.5),
    Request(LONG, seed=8, size=(48, 48), guidance=4.0, negative="dark, 暗"),
    Request("x", seed=9, size=(16, 16), sigmas=(0.8,), guidance=1.0),
    Request("树", seed=10, size=(16, 80), steps=3, guidance=7.0, negative=LONG),
    Request("two dogs 两只狗", seed=11, size=(64, 64), sigmas=(1.0, 0.25), guidance=1.0),
    Request("a red fox", seed=2**63 - 1, size=(64, 64), steps=2, guidance=4.0, negative="blue"),
]
