"""What the bench makes of results: plots, tables, and the generated parts of a document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench import budgets, charts, document, install_sizes, plot
from bench.contenders import FASTAPI, FASTAPI_UNIX, IN_PROCESS, OURS, SERVER
from bench.report import worse_rows
from bench.rows import rows_of

NAMES = (OURS, IN_PROCESS, SERVER, FASTAPI, FASTAPI_UNIX)


def results() -> dict[str, Any]:
    run: dict[str, Any] = {
        "suite": "footprint",
        "date": "2026-01-01",
        "command": "python -m bench footprint",
        "seconds": 1.0,
        "machine": {
            "cpu": "a <fast> one & more",
            "cores": 2,
            "system": "Linux",
            "device": "CPU",
            "versions": {"mlx": "1"},
        },
        "settings": {"model": "tiny", "sizes": {"new": 128}, "lives": 3, "peer_blas": "none"},
        "errors": [],
        "figures": {},
    }
    for place, row in enumerate(rows_of(run)):
        run["figures"][row.key] = {
            name: [10.0 * (place + 1) + rank + life / 4 for life in range(3)]
            for rank, name in enumerate(NAMES)
        }
    return run


def texts(svg: str) -> list[str]:
    return [
        element.text or "" for element in ET.fromstring(svg).iter() if element.tag.endswith("text")
    ]


def test_budgets_are_kept_missed_or_not_measured() -> None:
    run = results()
    run["settings"]["weights_mib"] = 20.0
    run["figures"]["initialize_ms"] = {OURS: [99.0, 101.0, 90.0]}
    run["figures"]["start_ms"] = {OURS: [26.0], IN_PROCESS: [100.0]}
    run["figures"]["rss_mib"] = {OURS: [80.0, 79.0, 90.0]}
    run["figures"]["idle_cpu"] = {OURS: [0.0, 0.0, 5.0]}
    run["wire"] = {"wire_request_ms": {OURS: [0.6]}}
    expected = ["kept", "missed", "kept", "kept", "missed", "not measured", "not measured"]
    assert [budget.verdict for budget in budgets.check(run)] == expected
    assert [line.split("|")[-2].strip() for line in budgets.table(run).splitlines()[2:]] == expected


@pytest.mark.parametrize("most", [1.5, 1e6])
def test_a_plot_is_xml_and_has_all_values(most: float) -> None:
    bars = [
        plot.Bar("one & <two>", 0.0, 0.0, 0.0),
        plot.Bar("three", 1.25, 1.0, 1.5, ours=True),
        plot.Bar("four", most, most, most),
    ]
    svg = plot.draw("T & <t>", [plot.Panel("a row, ms", bars, "ms")])
    found = texts(svg)
    for bar in bars:
        assert bar.label in found
        assert f"{plot.number(bar.value)} ms" in found
    assert any("log scale" in text for text in found) == (most > 100)
    widths = [
        float(element.attrib["width"])
        for element in ET.fromstring(svg).iter()
        if element.tag.endswith("rect")
    ]
    assert widths == sorted(widths)
    assert len(set(widths)) == 3


def test_every_row_of_the_footprint_is_in_a_plot(tmp_path: Path) -> None:
    run = results()
    shown = charts.write(run, tmp_path / "plots")
    drawn = {file.name: file.read_text() for file in (tmp_path / "plots").iterdir()}
    assert len(shown) == len(drawn)
    for name in drawn:
        assert any(f"(plots/{name})" in line for line in shown)
    found = [text for svg in drawn.values() for text in texts(svg)]
    for row in rows_of(run):
        for name in NAMES:
            middle = plot.number(run["figures"][row.key][name][1])
            assert f"{middle} {row.unit}".strip() in found


def test_a_document_is_written_again_without_a_change(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    document.write(path, [results()])
    first = path.read_text()
    assert first.count("begin of the generated figures: footprint") == 1
    assert first.count("begin of the generated figures: expectations") == 1
    document.write(path, [results()])
    assert path.read_text() == first


def test_what_people_wrote_stays_and_gives_the_reasons(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    document.write(path, [results()])
    assert "No reason is given yet" in path.read_text()  # more tokens/s of a peer
    (key, _), *_ = worse_rows(results())
    path.write_text(
        path.read_text().replace("## Reasons\n", f"## Reasons\n\n- `{key}`: so it is.\n")
    )
    document.write(path, [results()])
    assert "No reason is given yet" not in path.read_text()
    assert "so it is." in path.read_text().partition("Worse than a peer:")[2]


def test_installed_sizes_join_where_they_were_measured(tmp_path: Path) -> None:
    run = results()
    del run["figures"]["installed_mb"], run["figures"]["packages"]
    path = tmp_path / "installs.json"
    install_sizes.attach(run, path)
    assert "not measured" in install_sizes.table(run)
    found = {"packages": 3, "megabytes": 12.5, "largest": [["mlx", 10.0]]}
    path.write_text(json.dumps({"mlx-stdio[cpu]": found, "mlx-stdio lean": found}))
    install_sizes.attach(run, path)
    assert run["figures"]["installed_mb"] == {OURS: [12.5]}
    assert "mlx-stdio lean" in install_sizes.table(run)
