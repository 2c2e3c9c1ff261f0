"""The page of what recipes learn says what the runs' files say, and calls nothing learned that is not."""

import json

import pytest

from scripts import learn

CERTIFICATE = dict(command="c", hardware="2 CPU cores, Some CPU", versions="v", commit="abc")


def runs_of(*reached: float, metric: str = "map_50", baseline: float = 0.1) -> list[dict]:
    common = dict(metric=metric, baseline={metric: baseline}, certificate=CERTIFICATE, seconds=10.0)
    return [common | dict(seed=seed, reached={metric: value}) for seed, value in enumerate(reached)]


@pytest.mark.parametrize(
    ("reached", "metric", "verdict"),
    [
        ((0.30, 0.31, 0.32), "map_50", "yes"),
        ((0.10, 0.15, 0.20), "map_50", "**no**"),  # a gain of 0.05, a spread of 0.1
        ((0.01, 0.02, 0.03), "map_50", "**no**"),
        ((0.01, 0.02, 0.03), "loss", "yes"),
        ((0.30, 0.31, 0.32), "loss", "**no**"),
    ],
)
def test_a_recipe_learns_where_it_beats_the_trivial_answer_by_twice_the_spread(reached, metric, verdict):
    cells = learn.row("name", runs_of(*reached, metric=metric)).split(" | ")
    assert cells[-2] == verdict
    assert cells[3] == ", ".join(f"{value:.4f}" for value in reached)


@pytest.mark.parametrize(("tuned", "verdict"), [((0.8, 0.81), "more than"), ((0.71, 0.73), "**not more** than")])
def test_pre_training_helps_where_the_gain_is_larger_than_twice_the_spread(tuned, verdict):
    text = " ".join(learn.compare(runs_of(0.7, 0.72), runs_of(*tuned)))
    assert verdict in text


def test_the_page_and_the_recipes_headers_wait_for_all_seeds(tmp_path, monkeypatch, capsys):
    recipes = tmp_path / "configs/recipes"
    recipes.mkdir(parents=True)
    names = (*learn.RECIPES, learn.SCRATCH, learn.TUNED)
    for name in names[:-1]:
        (recipes / f"{name}.yaml").write_text("# A recipe.\n#\n#   command:  c\n#   result:   none yet\ntask: x\n")
    monkeypatch.setattr(learn, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    arguments = ["--runs", str(tmp_path / "runs"), "--page", str(page)]
    for name in names:
        assert not page.exists()
        for run in runs_of(0.5, 0.6, 0.7):
            folder = tmp_path / f"runs/{name}-{run['seed']}"
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text(json.dumps(run))
        learn.main([*arguments, "--only", name])
    assert "Not all seeds have run yet" in capsys.readouterr().out
    for name in names:
        assert (
            f"| {name} | map_50 | 0.1000 | 0.5000, 0.6000, 0.7000 | 0.6000 | 0.2000 | yes | 10, 10, 10 |"
            in page.read_text()
        )
    header = (recipes / "clipart_masked.yaml").read_text()
    assert "#   result:   map_50 0.6000 (0.5000 to 0.7000 over 3 seeds); a trivial answer 0.1000\n" in header
    assert "#   time:     10 s, 2 CPU cores\n" in header
    learn.main([*arguments, "--only", "clipart_masked"])  # once more: the header stays as it is
    assert (recipes / "clipart_masked.yaml").read_text() == header
