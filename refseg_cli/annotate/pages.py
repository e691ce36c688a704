"""The pages as HTML. Whatever players or data say is escaped here, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from refseg_cli.annotate.figures import Table
from refseg_cli.annotate.players import Player
from refseg_cli.annotate.rules import LONGEST, REASONS, State
from refseg_cli.annotate.views import View

PAGE = Template((files("refseg_cli.annotate") / "page.html").read_text("utf-8"))
COLOURS = 8  # of shapes, in game.css
WRITTEN = "written"
# What a page says after something was handed in, by its code in the address.
NOTES = {
    WRITTEN: "Saved. Your phrase goes to a validator.",
    str(State.ACCEPTED): "Saved. You found what the annotator meant: the phrase is accepted.",
    str(State.DISPUTED): "Saved. The annotator meant something else, so another validator will check the phrase.",
    str(State.DISCARDED): "Saved. No validator found what the annotator meant: the phrase is discarded.",
    str(State.REJECTED): "Saved. The phrase is rejected.",
}


@dataclass(frozen=True, slots=True)
class Form:
    """What the forms of a page carry.

    key: against forged ones, see `players.Keys.form`.  task: the task's id.  fault: why the last try was refused.
    note: a key of `NOTES`.  phrase, chosen, nothing: what the player had entered.
    """

    key: str
    task: int
    fault: str = ""
    note: str = ""
    phrase: str = ""
    chosen: frozenset[int] = frozenset()
    nothing: bool = False


def join(fault: str = "") -> str:
    """Where a link leads. The token stands behind the #, so that no server and no proxy writes it into a log."""
    return _page(
        "Join",
        f"""{_told(fault, "")}<h1>Join the game</h1>
<p>Open the link that you were given. If this page stays, paste the part of the link after the #.</p>
<form id="join" method="post" action="/join" class="column">
<label for="token">Code</label><input id="token" name="token" autocomplete="off" spellcheck="false" required>
<button class="main">Play</button></form>""",
    )


def message(title: str, text: str) -> str:
    return _page(title, f"<h1>{escape(title)}</h1><p>{escape(text)}</p><p><a href='/'>To the start</a></p>")


def home(player: Player, tally: Mapping[str, int], waiting: int) -> str:
    """Where a player chooses what to do; waiting: samples that they could validate."""
    doors = []
    if player.may("annotate"):
        doors.append('<a class="door" href="/annotate"><b>Describe objects</b><span>in a random picture</span></a>')
    if player.may("validate"):
        there = f"{waiting} {'phrase waits' if waiting == 1 else 'phrases wait'}"
        doors.append(f'<a class="door" href="/validate"><b>Find objects</b><span>{there}</span></a>')
    open_ones = tally[State.WAITING] + tally[State.DISPUTED]
    facts = [
        ("accepted", tally[State.ACCEPTED]),
        ("being checked", open_ones),
        ("discarded or rejected", tally[State.DISCARDED] + tally[State.REJECTED]),
        ("of others that you checked", tally["validated"]),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{number}</dd></div>" for name, number in facts)
    return _page(
        "The annotation game",
        f"""<h1>Hello, <bdi>{escape(player.name)}</bdi></h1>
<nav class="doors" aria-label="Play">{"".join(doors)}</nav>
<h2>Your phrases</h2><dl class="facts">{listed}</dl>
<h2>How it works</h2>
<p>One player chooses objects in a picture and describes them. Another one sees the picture and the phrase, and
looks for the objects. If both choose the same, the phrase is accepted; if two players choose otherwise, it is
discarded.</p>""",
    )


def annotate(
    form: Form,
    view: View,
    known: Sequence[tuple[str, tuple[int, ...]]],
    offers: Sequence[Mapping[str, Any]],
) -> str:
    """Where objects are described."""
    return _page(
        "Describe objects",
        f"""{_told(form.fault, form.note)}<h1>Describe objects</h1>
<form id="play" method="post" action="/annotate" data-task="{form.task}" class="board">{_hidden(form)}
{_stage(form.task, view, _shapes(view))}
<div class="panel">
<p class="hint">Choose one object, several or none, and write a phrase that fits exactly those. Where objects overlap,
click again for the one below.</p>
{_objects(form, view, "Nothing: the phrase fits nothing here")}
<label for="phrase">Phrase</label>
<input id="phrase" name="phrase" value="{escape(form.phrase)}" maxlength="{LONGEST}" autocomplete="off" required
 lang="en" enterkeyhint="send" placeholder="two people on the left">
<div class="buttons"><button class="main">Submit</button>
<button formaction="/skip" formnovalidate>Another picture</button></div>
</div></form>
<div class="extras">
{_known(known, view)}
{_offers(offers)}
<details><summary>Rules for phrases</summary><ul>
<li>It must name all the objects that you chose, and no others.</li>
<li>Use plain English, without names of private persons.</li>
<li>A phrase that fits nothing must still have to do with the picture: “the kid in blue” where there are kids but none
in blue, not “dog” where there is no animal at all.</li></ul></details>
</div>""",
    )


def validate(form: Form, view: View, phrase: str) -> str:
    """Where objects are looked for."""
    reasons = "".join(
        f'<label><input type="radio" name="reason" value="{code}"> <span>{escape(text)}</span></label>'
        for code, text in REASONS.items()
    )
    return _page(
        "Find objects",
        f"""{_told(form.fault, form.note)}
<h1 class="asked"><span>Find</span> <bdi>{escape(phrase)}</bdi></h1>
<form id="play" method="post" action="/validate" data-task="{form.task}" class="board">{_hidden(form)}
{_stage(form.task, view, _shapes(view))}
<div class="panel">
<p class="hint">Choose all the objects that the phrase names. Where objects overlap, click again for the one below.</p>
{_objects(form, view, "Nothing in the picture fits")}
<div class="buttons"><button class="main">Submit</button></div>
<details><summary>Reject the phrase</summary><fieldset class="reasons"><legend>Why?</legend>{reasons}</fieldset>
<button formaction="/reject">Reject</button></details>
</div></form>""",
    )


def nothing_to_validate(player: Player, note: str) -> str:
    other = ' · <a href="/annotate">Describe objects</a>' if player.may("annotate") else ""
    return _page(
        "Find objects",
        f"""{_told("", note)}<h1>Nothing to check</h1>
<p>No phrase of another player waits for you.</p>
<p><a href="/validate">Look again</a>{other}</p>""",
    )


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a model answers.  shape: of its mask, None where it finds nothing.  iou: with the player's choice."""

    model: str
    shape: str | None
    iou: float


def opinion(seen: Opinion, view: View, phrase: str, chosen: Iterable[int], *, task: int, on: str, note: str) -> str:
    """What a model makes of a sample that the player has handed in; on: the next page."""
    own = "".join(f'<g class="on c1"><path d="{s.path}"/></g>' for s in view.shapes if s.ann_id in set(chosen))
    found = f'<path class="model" d="{seen.shape}"/>' if seen.shape else ""
    said = f"It overlaps your choice by {seen.iou:.0%}." if seen.shape else "It finds nothing in the picture."
    return _page(
        "A model's opinion",
        f"""{_told("", note)}
<h1 class="asked"><span>A third opinion on</span> <bdi>{escape(phrase)}</bdi></h1>
<div class="board">{_stage(task, view, own + found)}
<div class="panel"><p>The model <b>{escape(seen.model)}</b> has answered, too. {said}</p>
<p class="hint">Filled: your choice. Dashed: the model's. It is a model and may be wrong; nothing depends on it.</p>
<p><a class="main" href="{on}" id="on">Go on</a></p></div></div>""",
    )


def dashboard(about: str, pictures: tuple[int, int], tables: Sequence[Table]) -> str:
    """The game in figures, for its host; pictures: with phrases, and in all."""
    shown = "".join(_table(table) for table in tables)
    return _page(
        "Dashboard",
        f"""<h1>Dashboard</h1><p>{escape(about)}: {pictures[0]} of {pictures[1]} pictures have phrases.</p>
<div class="tables">{shown}</div>
<p class="hint">Kappa is Cohen's, on whether each object is meant: 1 is full agreement, 0 is chance.</p>""",
        nav='<nav><a href="/dashboard">Refresh</a></nav>',
    )


def _page(title: str, body: str, *, nav: str = "") -> str:
    return PAGE.substitute(title=escape(title), body=body, nav=nav)


def _told(fault: str, note: str) -> str:
    if fault:
        return f'<p class="fault" role="alert">{escape(fault)}</p>'
    return f'<p class="note" role="status">{escape(NOTES[note])}</p>' if note in NOTES else ""


def _hidden(form: Form) -> str:
    return f'<input type="hidden" name="task" value="{form.task}"><input type="hidden" name="key" value="{form.key}">'


def _stage(task: int, view: View, shapes: str) -> str:
    """The photo with shapes over it; what a screen reader needs of them is the list."""
    height, width = view.size
    letters = f'font-size="{max(height, width) // 36}"'
    return f"""<figure class="stage"><svg viewBox="0 0 {width} {height}" {letters} role="img" aria-label="The picture">
<image href="/picture/{task}" width="{width}" height="{height}"/>{shapes}</svg></figure>"""


def _shapes(view: View) -> str:
    return "".join(
        f'<g class="c{n % COLOURS}" data-object="{s.ann_id}"><path d="{s.path}"/>'
        f'<text x="{s.label[0]}" y="{s.label[1]}">{n}</text></g>'
        for n, s in enumerate(view.shapes, start=1)
    )


def _objects(form: Form, view: View, nothing: str) -> str:
    rows = "".join(
        f'<label data-object="{s.ann_id}"><input type="checkbox" name="target" value="{s.ann_id}"'
        f'{" checked" if s.ann_id in form.chosen else ""}><b class="c{n % COLOURS}">{n}</b>'
        f" <span>{escape(s.name)}</span></label>"
        for n, s in enumerate(view.shapes, start=1)
    )
    checked = " checked" if form.nothing else ""
    return f"""<fieldset><legend>Objects <output id="count"></output></legend><div class="objects">{rows}</div>
<label class="nothing"><input type="checkbox" name="nothing" value="1"{checked}> <span>{nothing}</span></label>
</fieldset>"""


def _known(known: Sequence[tuple[str, tuple[int, ...]]], view: View) -> str:
    numbers = {shape.ann_id: n for n, shape in enumerate(view.shapes, start=1)}
    if not known:
        return ""
    rows = ""
    for text, targets in known:
        places = sorted(numbers[target] for target in targets if target in numbers)
        rows += f"<li><bdi>{escape(text)}</bdi> <small>{', '.join(map(str, places)) or 'nothing'}</small></li>"
    hint = "With the numbers of their objects. Yours must be another one."
    return _folded(f"Expressions of this picture ({len(known)})", hint, f"<ul>{rows}</ul>")


def _folded(title: str, hint: str, listed: str) -> str:
    return f'<details><summary>{title}</summary><p class="hint">{hint}</p>{listed}</details>'


def _offers(offers: Sequence[Mapping[str, Any]]) -> str:
    """Buttons that fill in the form; without the script their text can be copied."""
    groups = (
        (
            "drawn",
            "Suggestions for a phrase that fits nothing",
            "From other pictures. Take one that nothing here fits.",
        ),
        ("generated", "Suggestions by refseg", "Generated from the objects. Take one only if it is right."),
    )
    shown = ""
    for kind, title, hint in groups:
        rows = "".join(
            f'<li><button type="button" class="offer" data-targets="{" ".join(map(str, offer["targets"]))}">'
            f"{escape(offer['phrase'])}</button></li>"
            for offer in offers
            if offer["origin"]["kind"] == kind
        )
        if rows:
            shown += _folded(title, hint, f'<ul class="offers">{rows}</ul>')
    return shown


def _table(table: Table) -> str:
    """Columns with figures stand on the right."""
    classes = ["" if any(isinstance(c, str) for c in column) else "number" for column in zip(*table.rows, strict=True)]
    columns = zip(table.columns, classes, strict=True)
    head = "".join(f'<th scope="col" class="{side}">{escape(column)}</th>' for column, side in columns)
    rows = ""
    for row in table.rows:
        cells = (f'<td class="{side}">{_cell(cell)}</td>' for cell, side in zip(row, classes, strict=True))
        rows += f"<tr>{''.join(cells)}</tr>"
    return f"""<div class="scroll" tabindex="0" role="group" aria-label="{escape(table.title)}"><table>
<caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"""


def _cell(cell: str | int | float | None) -> str:
    if cell is None:
        return "–"
    return f"{cell:.2f}" if isinstance(cell, float) else escape(str(cell))
