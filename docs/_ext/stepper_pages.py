"""The page to step through that `debug.write_html` makes, written when the site is built."""

from pathlib import Path

from rnn_numpy import debug

PAGE = Path(__file__).parents[1] / "exploding.py"


def write(app) -> None:
    """Write the pass of `exploding.py` beside the site's pages."""
    if app.builder.format != "html":
        return
    space: dict = {}
    exec(compile(PAGE.read_text(encoding="utf-8"), str(PAGE), "exec"), space)
    layer, trace, doutput = space["case"]()
    back = layer.backward(trace, doutput)
    folder = Path(app.outdir) / "steppers"
    folder.mkdir(parents=True, exist_ok=True)
    debug.write_html(folder / "exploding.html", layer, trace, back, stops=["norm(dh_prev) > 200"])


def setup(app):
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
