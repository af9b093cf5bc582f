"""A plot of a distillation: the loss, and how much the student agrees with the teacher."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dgr_trainer.files.atomic import atomic_write


def plot_training(history: Sequence[Mapping[str, float]], path: Path) -> bool:
    """Plot what a distillation logged.

    Args:
        history (`Sequence[Mapping[str, float]]`): `trainer.state.log_history`.
        path (`Path`): The PNG file to write.

    Returns:
        `bool`: Whether it was written; `False` if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    logged = [entry for entry in history if "loss_ranking" in entry]
    steps = [entry["step"] for entry in logged]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps, [entry["loss_ranking"] for entry in logged], color="tab:blue")
    left.set(xlabel="step", ylabel="divergence from the target", title="Ranking loss", ylim=(0, None))
    right.plot(steps, [entry["rank_accuracy"] for entry in logged], color="tab:green")
    right.set(xlabel="step", ylabel="pairs in its order", title="Agreement with the teacher", ylim=(0, 1))
    right.axhline(0.5, color="grey", linewidth=0.5)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path, "wb") as file:
        FigureCanvasAgg(figure).print_png(file)  # type: ignore[no-untyped-call]
    return True
