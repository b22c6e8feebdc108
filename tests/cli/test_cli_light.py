"""Help, versions and mistakes come at once: torch is imported when painting starts, not before."""

import subprocess
import sys

import pytest

CODE = """
import sys
import danqing, danqing.cli, danqing.recipe
code = danqing.cli.run(sys.argv[1:])
heavy = {"torch", "numpy", "tokenizers", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("--help", 0),
        ("--version", 0),
        ("generate --help", 0),
        ("reproduce --help", 0),
        ("model info --help", 0),
        ("adapter --help", 0),
        ("adapter merge --help", 0),
        ("train --help", 0),
        ("train lora --set nothing", 2),
        ("generate", 2),
        ("generate fox --steps 0", 2),
        ("generate fox --prompts none.txt", 2),
        ("generate fox --adapter style:much", 2),
        ("reproduce none.png", 2),
        ("reproduce none.png --adapter style", 2),
        ("adapter combine --adapter style:much --out new.safetensors", 2),
    ],
)
def test_torch_is_not_imported(arguments, code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
