"""The verbs of `vit-custom`: each file holds `Options` and `main(options)`. They alone join the wings."""

__all__: list[str] = ["check", "convert", "describe", "evaluate", "predict", "pull", "push", "train"]
