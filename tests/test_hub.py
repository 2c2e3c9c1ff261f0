"""A run's folder appears whole, replaces its own kind only, and loses nothing."""

import json

import pytest

from modeling_vit_custom.hub import run_folder


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_run_appears_whole_with_its_marker_and_is_replaced_by_the_same_run(tmp_path):
    folder = tmp_path / "deep" / "run"
    for text in ("first", "second"):
        with run_folder(folder, run="a") as partial:
            (partial / text).write_text(text)
            assert not (folder / text).exists()
        assert contents(folder).keys() == {text, "run.json"}
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


@pytest.mark.parametrize("holds", ["another run", "a stranger's file", "a broken marker", "a file"])
def test_what_is_not_a_result_of_this_run_is_never_replaced(holds, tmp_path):
    folder = tmp_path / "run"
    if holds == "a file":
        folder.write_text("precious")
    else:
        folder.mkdir()
        (folder / "precious").write_text("precious")
        if holds == "another run":
            (folder / "run.json").write_text(json.dumps({"run": "b"}))
        if holds == "a broken marker":
            (folder / "run.json").write_text("[]")
    before = folder.read_text() if folder.is_file() else contents(folder)
    with pytest.raises(FileExistsError, match="move it away, or set another `output_dir`"), run_folder(folder, run="a"):
        pytest.fail("the run must not start")
    assert before == (folder.read_text() if folder.is_file() else contents(folder))


def test_a_run_that_fails_leaves_the_earlier_result_and_what_it_wrote_itself(tmp_path, capsys):
    folder = tmp_path / "run"
    with run_folder(folder, run="a") as partial:
        (partial / "weights").write_text("good")

    def interrupted():
        with run_folder(folder, run="a") as partial:
            (partial / "weights").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert contents(folder)["weights"] == "good"
    (partial,) = (path for path in tmp_path.iterdir() if path != folder)
    assert contents(partial) == {"weights": "half"}
    assert str(partial) in capsys.readouterr().out
    with run_folder(folder, run="a"):
        pass
    assert contents(partial) == {"weights": "half"}


def test_a_run_that_fails_before_it_wrote_anything_leaves_nothing(tmp_path):
    def failing():
        with run_folder(tmp_path / "run", run="a") as partial:
            (partial / "trainer").mkdir()
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # any error will do
        failing()
    assert list(tmp_path.iterdir()) == []
