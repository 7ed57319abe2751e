"""A report as one HTML file: no network, no scripts, printable; everything that was written by others is escaped."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape

from detfuse.ablation.report.blocks import Block, Bullets, Code, Figure, PictureRow, Section, Table, Text, Verdicts

_STYLE = """
:root { color-scheme: light; --ink: #1f2933; --muted: #52606d; --rule: #e4e7eb; --paper: #fff; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7fa; color: var(--ink); font: 15px/1.55 Inter, "Helvetica Neue", Helvetica, Arial,
  sans-serif; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
main { max-width: 1160px; margin: 0 auto; padding: 44px 50px 70px; background: var(--paper); }
header p { margin: 0; color: var(--muted); }
header .kicker { font-size: 12px; letter-spacing: .09em; text-transform: uppercase; }
h1 { margin: 2px 0 4px; font-size: 30px; line-height: 1.2; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 46px 0 12px; padding-top: 18px; border-top: 2px solid var(--ink); font-size: 19px; line-height: 1.3; }
h3 { margin: 24px 0 8px; font-size: 14px; }
p { margin: 0 0 12px; max-width: 78ch; }
p.note, figcaption, caption { max-width: 105ch; color: var(--muted); font-size: 13px; }
.headline { margin: 26px 0 18px; max-width: none; font-size: 23px; line-height: 1.35; font-weight: 600; }
ul.verdicts { margin: 0 0 12px; padding: 0; max-width: none; list-style: none; border-top: 1px solid var(--rule); }
.verdicts li { display: grid; grid-template-columns: 130px 170px 100px 1fr; gap: 20px; align-items: baseline;
  padding: 9px 0 9px 14px; border-bottom: 1px solid var(--rule); border-left: 5px solid; }
.verdicts b { overflow-wrap: anywhere; }
.word { font-size: 12px; font-weight: 600; text-transform: uppercase; letter-spacing: .05em; }
.number, td.number, th.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 14px 0 22px; }
figure > svg, figure > img { display: block; max-width: 100%; height: auto; width: auto; }
figure.foreign { overflow-x: auto; }
.foreign > img { max-width: none; max-height: 400px; }
figcaption { margin-top: 8px; }
.scroll { display: inline-block; max-width: 100%; overflow-x: auto; margin: 12px 56px 22px 0;
  vertical-align: top; }
table { border-collapse: collapse; font-size: 13.5px; }
caption { caption-side: bottom; padding-top: 8px; text-align: left; }
th, td { padding: 6px 22px 6px 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
th { color: var(--muted); font-weight: 600; font-size: 12.5px; }
th.number, td.number { text-align: right; }
ul { margin: 0 0 14px; padding-left: 20px; max-width: 100ch; }
pre { padding: 14px 16px; overflow-x: auto; background: #f5f7fa; border-radius: 6px; font: 12.5px/1.5 ui-monospace,
  Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; }
.pictures figure { margin: 0 0 10px; max-width: 420px; }
.pictures img { width: 100%; border-radius: 3px; }
@media (max-width: 820px) {
  main { padding: 24px 18px; }
  .verdicts li { grid-template-columns: 1fr 1fr; }
}
@media print {
  @page { size: A4; margin: 13mm 12mm; }
  body { background: none; font-size: 11px; }
  main { max-width: none; padding: 0; }
  h1 { font-size: 22px; }
  h2 { margin-top: 26px; font-size: 15px; break-after: avoid; }
  h3 { break-after: avoid; font-size: 12px; }
  h2 + p { break-after: avoid; }
  .word { font-size: 9px; }
  .headline { font-size: 17px; }
  .verdicts li { grid-template-columns: 110px 150px 90px 1fr; }
  p.note, figcaption, caption, table, th { font-size: 10px; }
  figure, tr, .verdicts li { break-inside: avoid; }
  .scroll, figure.foreign { overflow: visible; }
  .foreign > img { max-width: 100%; }
  th, td { padding: 4px 12px 4px 0; }
  pre { font-size: 9px; }
  .pictures { grid-template-columns: repeat(4, 1fr); gap: 8px; }
}
"""


def page(title: str, kicker: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole document.

    Args:
        title: of the ablation.
        kicker: the small line above it.
        subtitle: what was compared, in a line.
        sections: the content; one without a title stands at the top.
    """
    body = "\n".join(_section(section) for section in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}: ablation</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<header><p class="kicker">{escape(kicker)}</p><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>\n'
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    heading = f"<h2>{escape(section.title)}</h2>\n" if section.title else ""
    return f"<section>\n{heading}" + "\n".join(_block(block) for block in section.blocks) + "\n</section>"


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return f'<p class="note">{escape(block.text)}</p>' if block.note else f"<p>{escape(block.text)}</p>"
    if isinstance(block, Bullets):
        return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Code):
        return f"<pre>{escape(block.text)}</pre>"
    if isinstance(block, Verdicts):
        return _verdicts(block)
    if isinstance(block, Figure):
        drawing = _image("image/svg+xml", block.svg.encode(), block.caption) if block.foreign else block.svg
        kind = ' class="foreign"' if block.foreign else ""
        return f"<figure{kind}>{drawing}<figcaption>{escape(block.caption)}</figcaption></figure>"
    if isinstance(block, PictureRow):
        return _pictures(block)
    return _table(block)


def _verdicts(block: Verdicts) -> str:
    items = "".join(
        f'<li style="border-left-color:{badge.color}"><b style="color:{badge.color}">{escape(badge.name)}</b>'
        f'<span class="number">{escape(badge.figure)}</span><span class="word">{escape(badge.word)}</span>'
        f"<span>{escape(badge.text)}</span></li>"
        for badge in block.badges
    )
    return f'<p class="headline">{escape(block.headline)}</p>\n<ul class="verdicts">{items}</ul>'


def _pictures(row: PictureRow) -> str:
    figures = "".join(
        f"<figure>{_image('image/jpeg', picture.jpeg, picture.caption)}"
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in row.pictures
    )
    return f'<h3>{escape(row.heading)}</h3>\n<div class="pictures">{figures}</div>'


def _image(kind: str, content: bytes, alternative: str) -> str:
    return f'<img alt="{escape(alternative)}" src="data:{kind};base64,{b64encode(content).decode("ascii")}">'


def _table(table: Table) -> str:
    kinds = [' class="number"' if column.numeric else "" for column in table.columns]
    head = "".join(f"<th{kind}>{escape(c.header)}</th>" for kind, c in zip(kinds, table.columns, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in table.shown()
    )
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
