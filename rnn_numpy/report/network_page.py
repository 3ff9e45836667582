"""The recurrent layers of a file as a table, and as numbers: what `rnn-numpy inspect` prints."""

from __future__ import annotations

from typing import Any

from rnn_numpy.report import tables

COLUMNS = ("layer", "kind", "D", "H", "layers", "directions", "parameters", "opens as")


def network_report(network: Any, opened: list[dict[str, Any]]) -> str:
    """Return the page: a table of the layers, and what is worth knowing of them and of the file."""
    count = len(opened)
    lines = f"{network.source}: {network.format}, {count} recurrent layer{'' if count == 1 else 's'}\n"
    if opened:
        table = tables.new_table(COLUMNS, left=("layer", "kind", "opens as"), fold=("layer", "opens as"))
        for row in opened:
            said = row["layer"] or (" or ".join(row["choices"]) if row["choices"] else "refused, see below")
            sizes = [str(row[name] or "?") for name in ("input_size", "hidden_size", "num_layers", "num_directions")]
            table.add_row(row["name"], row["kind"], *sizes, str(row["parameters"] or "-"), said)
        lines += "\n" + tables.rendered(table)
    for row in opened:
        options = ", ".join(f"{name}={value}" for name, value in row["options"].items())
        said = ([f"options {options}"] if options else []) + row["notes"] + ([row["refused"]] if row["refused"] else [])
        if said:
            lines += "\n" + tables.paragraph(f"{row['name']}: {'; '.join(said)}.")
    if network.notes:
        lines += "\n" + "".join(tables.paragraph(f"{note}.") for note in network.notes)
    return lines


def network_numbers(network: Any, opened: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what `--json` writes."""
    return {"file": network.source, "format": network.format, "notes": network.notes, "layers": opened}


def opened_layers(network: Any, error: type[Exception]) -> list[dict[str, Any]]:
    """Return what is said of each layer, after it has been made, or has been refused with an `error`."""
    rows = []
    for found in network:
        layer, refused = None, None
        if len(found.choices) < 2:
            try:
                layer = found.layer
            except error as problem:
                refused = str(problem)
        rows.append(
            {
                "name": found.name, "kind": found.kind, "input_size": found.input_size,
                "hidden_size": found.hidden_size, "num_layers": found.num_layers,
                "num_directions": found.num_directions, "reverse": found.reverse,
                "parameters": 0 if layer is None else int(layer.params.flat.size),
                "options": {name: _plain(value) for name, value in found.options.items()},
                "initial_states": found.initial_states is not None, "parts": list(found.parts),
                "notes": list(found.notes), "choices": list(found.choices),
                "layer": None if layer is None else repr(layer), "refused": refused,
            }
        )  # fmt: skip
    return rows


def _plain(value: Any) -> Any:
    """Return a value that JSON has."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
