"""Checkpoints: in small parts, whole or absent, and damage is told."""

import pytest
import torch

from recipes.mini import checkpoint


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(checkpoint, "PART", 1000)


def state(value: float) -> dict:
    return {"step": 3, "weights": {"w": torch.full((400,), value)}}


def test_what_was_saved_comes_back_in_parts(tmp_path):
    assert checkpoint.load(tmp_path / "state") is None
    for value in (1.0, 2.0):
        checkpoint.save(state(value), tmp_path / "state")
        back = checkpoint.load(tmp_path / "state")
        assert back["step"] == 3
        assert torch.equal(back["weights"]["w"], torch.full((400,), value))
    sizes = [path.stat().st_size for path in (tmp_path / "state").glob("*-*")]
    assert len(sizes) > 2
    assert max(sizes) <= 1000
    assert sum(sizes) < 4000  # those of the first save are gone


def test_a_kill_before_the_index_leaves_the_old_state(tmp_path, monkeypatch):
    checkpoint.save(state(1.0), tmp_path)
    monkeypatch.setattr(
        checkpoint, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(state(2.0), tmp_path)
    assert checkpoint.load(tmp_path)["weights"]["w"][0] == 1.0


def test_a_damaged_part_is_told(tmp_path):
    checkpoint.save(state(1.0), tmp_path)
    part = min(tmp_path.glob("*-*"))
    part.write_bytes(b"x" + part.read_bytes()[1:])
    with pytest.raises(ValueError, match="is damaged; remove it"):
        checkpoint.load(tmp_path)
