"""The prompts that a student is taught with: a user's own, or those that came with the model."""

from pathlib import Path

from danqing.errors import DataError, TrainingError

OWN = "prompts.txt"  # in a model's folder
MOST = 10**6


def read_prompts(file: str, model: Path) -> list[str]:
    """A prompt a line, each once; empty lines are left out.

    Raises:
        DataError: the file cannot be read, or holds none.
        TrainingError: no file was given, and the model has none.
    """
    path = Path(file) if file else model / OWN
    if not file and not path.is_file():
        raise TrainingError(
            "this model comes without prompts; give a file of them, one a line, with --prompts"
        )
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the name") from error
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise DataError(f"{path} holds no prompt; write one a line")
    if len(found) > MOST:
        raise DataError(f"{path} holds {len(found)} prompts, at most {MOST}; give a part of them")
    return found
