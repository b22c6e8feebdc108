"""From sources of every kind to one list of records, or to one list of faults."""

from pathlib import Path

import pytest

from danqing.errors import DataError
from danqing.training.data.check import check
from danqing.training.data.faults import DataFaults
from danqing.training.data.gather import gather
from danqing.training.data.records import Record, Source
from tests.training.pictures import encoded, jsonl, save, shard, write


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def folder(name: str = "photos", *stems: str) -> Source:
    for stem in stems or ("a", "b"):
        save(Path(name, f"{stem}.png"))
        write(Path(name, f"{stem}.txt"), f"the {stem}")
    return Source(name)


def found(*sources: Source) -> list[tuple[str, tuple[str, ...]]]:
    return [(record.origin, record.captions) for record in gather(sources)]


def faults(*sources: Source) -> tuple[str, ...]:
    with pytest.raises(DataFaults) as caught:
        gather(sources)
    return caught.value.faults


# ---- kinds of sources -------------------------------------------------------------------------


def test_a_folder_of_pictures() -> None:
    wanted = [("photos/a.png", ("the a",)), ("photos/b.png", ("the b",))]
    assert found(folder()) == wanted
    assert found(Source(Path("photos"))) == wanted


def test_a_metadata_file() -> None:
    save(Path("d/x/a.png"))
    jsonl(Path("d/m.jsonl"), {"image": "x/a.png", "caption": "fox"})
    write(Path("d/m.csv"), "image,caption\nx/a.png,狐狸\n")
    assert found(Source("d/m.jsonl")) == [("d/m.jsonl line 1", ("fox",))]
    assert found(Source("d/m.csv")) == [("d/m.csv line 2", ("狐狸",))]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_an_imagefolder(name: str) -> None:
    for part in ("train", "test"):
        save(Path("d", part, "a.png"))
        if name.endswith("csv"):
            write(Path("d", part, name), f"file_name,text\na.png,{part}\n")
        else:
            jsonl(Path("d", part, name), {"file_name": "a.png", "text": part})
    line = 2 if name.endswith("csv") else 1
    wanted = [(f"d/{part}/{name} line {line}", (part,)) for part in ("test", "train")]
    assert found(Source("d")) == wanted
    check(gather([Source("d")]))


def test_shards() -> None:
    members = {"k.png": encoded(), "k.txt": "fox"}
    shard(Path("d/s-001.tar"), members)
    shard(Path("d/s-000.tar"), members)
    wanted = [("d/s-000.tar: k", ("fox",)), ("d/s-001.tar: k", ("fox",))]
    assert found(Source("d")) == wanted
    assert found(Source("d/s-001.tar")) == wanted[1:]
    check(gather([Source("d")]))


def test_sources_in_the_order_given_with_their_own_settings() -> None:
    one, other = folder("z", "a"), folder("b", "c")
    records = gather([Source(one.path, 3, 0.5), Source(other.path, caption="x")])
    assert [(r.origin, r.repeats, r.weight) for r in records] == [
        ("z/a.png", 3, 0.5),
        ("b/c.png", 1, 1.0),
    ]


def test_a_default_caption() -> None:
    save(Path("photos/a.png"))
    assert found(Source("photos", caption="sks dog")) == [("photos/a.png", ("sks dog",))]
    (silent,) = gather([Source("photos")])
    with pytest.raises(DataError, match=r"photos/a.png: has no caption; write one beside it"):
        check([silent])


def test_a_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder("photos", "a")
    assert len(gather([Source("~/photos")])) == 1


def test_records_are_the_same_every_time() -> None:
    source = folder("photos", *"fcaebd")
    first: list[Record] = gather([source])
    assert first == gather([source])
    assert [record.captions[0][-1] for record in first] == list("abcdef")
    assert hash(first[0]) == hash(gather([source])[0])


# ---- what is left aside -----------------------------------------------------------------------


def test_a_text_without_a_picture_is_warned_of() -> None:
    source = folder()
    write(Path("photos/c.txt"), "fox")
    with pytest.warns(UserWarning, match=r"^photos/c.txt has no picture beside it"):
        assert len(gather([source])) == 2


def test_pictures_that_metadata_do_not_name_are_warned_of() -> None:
    for stem in "abcdefgh":
        save(Path(f"d/{stem}.png"))
    jsonl(Path("d/metadata.jsonl"), {"image": "a.png", "text": "fox", "mask": "b.png"})
    told = r"^d: left aside, for the metadata do not name them: d/c.png, .*d/g.png and 1 more$"
    with pytest.warns(UserWarning, match=told):
        assert len(gather([Source("d")])) == 1


def test_pictures_beside_shards_are_warned_of() -> None:
    shard(Path("d/s.tar"), {"k.png": encoded(), "k.txt": "fox"})
    save(Path("d/a.png"))
    with pytest.warns(UserWarning, match="the shards do not name them: d/a.png"):
        assert len(gather([Source("d")])) == 1


# ---- faults -----------------------------------------------------------------------------------


def test_all_faults_of_all_sources_are_told_at_once() -> None:
    source = folder("photos", "a", "b", "c")
    write(Path("photos/b.txt"), "狐狸".encode("gbk"))
    write(Path("photos/c.png"), "cut")
    save(Path("d/a.png"))
    jsonl(Path("d/m.jsonl"), {"image": "../a.png"}, {"image": "a.png"}, [])
    told = faults(source, Source("none"), Source("d/m.jsonl"))
    assert [fault.split(": ")[0] for fault in told] == [
        "photos/b.txt",
        "none",
        "d/m.jsonl line 1",
        "d/m.jsonl line 3",
        "photos/c.png",  # a picture is checked as well, so that the list is whole
        "d/m.jsonl line 2",  # has no caption
    ]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (Source("none"), "none: is not there; check the name"),
        (Source("a.zip"), "a.zip: is no folder and ends in none of .tar, .jsonl, .csv"),
        (Source("empty"), "empty: holds no picture"),
        (Source("photos", repeats=0), "photos: repeats 0 must be a whole number"),
        (Source("photos", repeats=1.5), "photos: repeats 1.5 must be"),  # type: ignore[arg-type]
        (Source("photos", weight=0), "photos: weight 0 must be a number above 0"),
        (Source("photos", weight=float("nan")), "photos: weight nan must be"),
        (Source("photos", caption=" "), "photos: the default caption is blank"),
    ],
)
def test_a_source_that_cannot_be_used(source: Source, told: str) -> None:
    folder()
    write(Path("a.zip"), "x")
    Path("empty").mkdir()
    (fault,) = faults(source)
    assert fault.startswith(told)


def test_no_source() -> None:
    with pytest.raises(DataError, match="no training data; name a folder of pictures"):
        gather([])


def test_two_metadata_files_in_one_folder() -> None:
    save(Path("d/a.png"))
    jsonl(Path("d/metadata.jsonl"), {"image": "a.png", "text": "fox"})
    write(Path("d/metadata.csv"), "image,text\na.png,fox\n")
    (fault,) = faults(Source("d"))
    assert "d has both metadata.csv and metadata.jsonl; leave one of them out" in fault
