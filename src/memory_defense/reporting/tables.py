"""Records to tables of plain cells; the renderers (terminal, Markdown, LaTeX, HTML) only lay them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from memory_defense.evaluation.record import (
    Accuracy,
    AttackResult,
    AuditLine,
    CascadeRecord,
    DetectionResult,
    Record,
    Separation,
    WorstCase,
)
from memory_defense.reporting.cells import Cell, Column, Table
from memory_defense.reporting.certified import certified_tables
from memory_defense.reporting.failures import audit_sentence, failure, verdict
from memory_defense.reporting.rows import (
    Section,
    audit_lines,
    ball_key,
    curve_norms,
    curve_points,
    headline,
    protocol_text,
    proven,
    sorted_balls,
    table_attacks,
    table_worst_cases,
)
from memory_defense.reporting.selection import selection_tables
from memory_defense.reporting.sources import Sources
from memory_defense.reporting.wording import (
    MISSING,
    NOT_TRIED,
    NOTHING_RAN,
    PAPER_PROTOCOL,
    PROTOCOL_LABEL,
    SYMBOLS,
    attack_label,
    ball_text,
    epsilon_text,
    interval,
    knowledge_label,
    knowledge_order,
    norm_label,
    number,
    percent,
    plain,
)


def _accuracy(
    entry: Accuracy | WorstCase | None, sources: Sources, *, strong: bool = False, system: int = 0
) -> Cell:
    if entry is None:
        return Cell(MISSING)
    found = entry.measured if isinstance(entry, WorstCase) else entry
    if found is None or (isinstance(entry, AttackResult) and entry.tried == 0):
        return Cell(NOT_TRIED)
    return Cell(percent(found.accuracy), interval(found), strong, sources.of(entry, "accuracy"), system)


def _explained(notes: Sequence[str], rows: Sequence[Sequence[Cell]]) -> tuple[str, ...]:
    """Return the notes of a table, and what its cells without a number mean."""
    there = {cell.text for cells in rows for cell in cells}
    return (*notes, *([NOTHING_RAN] if NOT_TRIED in there else []))


def result_tables(record: Record) -> tuple[Table, ...]:
    """Return every table of one record but its audit and provenance, in the order of reading."""
    return (
        *certified_tables(record),
        matrix_table(record),
        *cascade_tables(record),
        *selection_tables(record),
        *detection_tables(record),
        results_table(record),
        *(curve_table(record, norm) for norm in curve_norms(record)),
    )


def headline_table(sections: Sequence[Section]) -> Table:
    """Return the compact table: one row for each system, the worst case in bold."""
    balls, rows = headline(sections)
    protocols = {protocol_text(row.paper) for row in rows if row.paper is not None}
    notes = ["Accuracy in %, with its 95 % interval."]
    columns = [Column("system", numeric=False), Column("clean")]
    if protocols:
        shared = f"{next(iter(protocols))}; " if len(protocols) == 1 else ""
        columns.append(Column("the paper's attack", f"{shared}spares the selector"))
    columns += [Column("worst case", ball_text(*ball)) for ball in balls]
    flags = [[worst is not None and worst.undetected is not None for worst in row.worst] for row in rows]
    flagged = [place for place in range(len(balls)) if any(row[place] for row in flags)]
    columns += [Column("worst case, right or flagged", ball_text(*balls[place])) for place in flagged]
    certified, proofs = proven(sections)
    columns += [Column("proven", ball_text(*ball)) for ball in certified]
    body: list[tuple[Cell, ...]] = []
    for system, (section, row, proof) in enumerate(zip(sections, rows, proofs, strict=True), start=1):
        found = Sources(section.record)
        cells = [Cell(plain(row.title)), _accuracy(row.clean, found, system=system)]
        if protocols:
            paper = _accuracy(row.paper, found, system=system)
            if row.paper is not None and len(protocols) > 1:
                paper = replace(paper, detail=f"{paper.detail} ({protocol_text(row.paper)})")
            cells.append(paper)
        cells += [_accuracy(worst, found, strong=True, system=system) for worst in row.worst]
        for worst in (row.worst[place] for place in flagged):
            cells.append(_accuracy(worst and worst.undetected, found, system=system))
        cells += [_accuracy(one, found, strong=True, system=system) for one in proof]
        body.append(tuple(cells))
    if any(cell.text == MISSING for cells in body for cell in cells):
        notes.append(f"{MISSING}: not run.")
    if balls:
        notes.append(
            "Worst case: right under every attack that was tried. L-inf limits the change of each pixel, L2 the "
            "change of all pixels together."
        )
    if certified:
        notes.append("Proven: right, and no image within the radius gets another answer, under any attack.")
    warnings: list[str] = []
    for section, row in zip(sections, rows, strict=True):
        whose = f"{plain(row.title)}: " if len(rows) > 1 else ""
        if failed := verdict(section.record):
            warnings.append(f"{whose}{plain(failed)}")
        said = [plain(note) for note in section.record.notes]
        notes += [
            f"{whose or one[:1].upper()}{one if whose else one[1:]}{'' if one.endswith('.') else '.'}"
            for one in said
        ]
    return Table("Headline", tuple(columns), tuple(body), _explained((*warnings, *notes), body))


def _split(results: list[AttackResult]) -> dict[str, list[AttackResult]]:
    """Return results of one attack and ball as table lines; different settings get lines of their own."""
    knowledge = [result.knowledge for result in results]
    if len(set(knowledge)) == len(knowledge):
        return {"": results}
    settings = [{k: str(v) for k, v in result.parameters.items() if k != "purpose"} for result in results]
    names = sorted({name for setting in settings for name in setting})
    varying = [name for name in names if len({setting.get(name) for setting in settings}) > 1]
    lines: dict[str, list[AttackResult]] = {}
    for result, setting in zip(results, settings, strict=True):
        text = ", ".join(f"{name}={setting[name]}" for name in varying if name in setting)
        suffix, repeat = (f" ({text})" if text else ""), 1
        while any(other.knowledge == result.knowledge for other in lines.get(suffix, [])):
            repeat += 1
            suffix = f" ({text}, run {repeat})" if text else f" (run {repeat})"
        lines.setdefault(suffix, []).append(result)
    return lines


def matrix_table(record: Record) -> Table:
    """Return attacks by knowledge, ball after ball, each closed by the worst case over all of it."""
    attacks, worst_cases = table_attacks(record), table_worst_cases(record)
    sources = Sources(record)
    known = sorted({result.knowledge for result in attacks}, key=knowledge_order)
    columns = [Column("attack", numeric=False), Column("ball", numeric=False)]
    for name in known:
        columns.append(Column(knowledge_label(name), PROTOCOL_LABEL if name == PAPER_PROTOCOL else ""))
    columns.append(Column("worst case"))
    rows: list[tuple[Cell, ...]] = []
    for ball in sorted_balls((*attacks, *worst_cases)):
        labels: dict[str, list[AttackResult]] = {}
        for result in attacks:
            if ball_key(result) == ball:
                labels.setdefault(attack_label(result), []).append(result)
        for label, results in labels.items():
            for suffix, line in _split(results).items():
                by_name = {result.knowledge: result for result in line}
                cells = (_accuracy(by_name.get(name), sources) for name in known)
                rows.append((Cell(label + plain(suffix)), Cell(ball_text(*ball)), *cells, Cell("")))
        for worst in worst_cases:
            if ball_key(worst) == ball:
                blank = (Cell("") for _ in known)
                name, where = Cell("every attack, image by image", strong=True), Cell(ball_text(*ball))
                rows.append((name, where, *blank, _accuracy(worst, sources, strong=True)))
                if worst.undetected is not None:
                    blank = (Cell("") for _ in known)
                    name = Cell("every attack, flagged counts as right")
                    rows.append((name, where, *blank, _accuracy(worst.undetected, sources)))
    notes = (
        "Accuracy in %, with its 95 % interval; a column for each knowledge of the adversary.",
        "Worst case: images that no attack with any knowledge broke within this ball.",
        f"{MISSING}: not run.",
    )
    said = _explained(notes, rows) if rows else ("No attack was run.",)
    return Table("Attacks by knowledge", tuple(columns), tuple(rows), said)


def results_table(record: Record) -> Table:
    """Return every attack result of the tables, with its cost, one row each."""
    sources = Sources(record)
    titles = ("knowledge", "norm", "epsilon", "accuracy", "median distance", "seconds", "forward", "backward")
    columns = (
        Column("attack", numeric=False),
        *(Column(name, numeric=name not in ("knowledge", "norm")) for name in titles),
    )
    rows = tuple(
        (
            Cell(attack_label(one)),
            Cell(knowledge_label(one.knowledge)),
            Cell(norm_label(one.norm)),
            Cell(epsilon_text(one.epsilon), source=sources.of(one, "epsilon")),
            _accuracy(one, sources),
            Cell(number(one.median_distance), source=sources.of(one, "median_distance")),
            Cell(f"{one.seconds:.1f}", source=sources.of(one, "seconds")),
            Cell(f"{one.forward_passes:,}", source=sources.of(one, "forward_passes")),
            Cell(f"{one.backward_passes:,}", source=sources.of(one, "backward_passes")),
        )
        for one in table_attacks(record)
    )
    notes = (
        "Accuracy in %, with its 95 % interval. Median distance of the fooled images to their originals, "
        f"{MISSING} where none is fooled.",
        "Forward and backward count images sent through the attacked classifier.",
    )
    said = _explained(notes, rows) if rows else ("No attack was run.",)
    return Table("Every attack and its cost", columns, rows, said)


def curve_table(record: Record, norm: str) -> Table:
    """Return the numbers behind one figure: radii by knowledge."""
    lines, sources = curve_points(record, norm), Sources(record)
    worst = {ball_key(entry): entry for entry in record.worst_case if entry.norm == norm}
    balls = sorted_balls([*(result for line in lines.values() for result in line), *worst.values()])
    columns = [Column("epsilon", numeric=False), *(Column(knowledge_label(name)) for name in lines)]
    clean = _accuracy(record.clean, sources)
    rows: list[tuple[Cell, ...]] = [(Cell("0 (clean)"), *(clean for _ in lines), replace(clean, strong=True))]
    for ball in balls:
        if ball[1] > 0:
            found = ({ball_key(result): result for result in line}.get(ball) for line in lines.values())
            cells = (_accuracy(result, sources) for result in found)
            rows.append((Cell(epsilon_text(ball[1])), *cells, _accuracy(worst.get(ball), sources, strong=True)))
    title = f"The figure's numbers, {norm_label(norm)}"
    notes = ("Accuracy in %, with its 95 % interval.", f"{MISSING}: not run.")
    return Table(title, (*columns, Column("worst case")), tuple(rows), _explained(notes, rows))


def provenance_table(record: Record) -> Table:
    """Return where the record's numbers come from, one name and value in each row."""
    made = record.provenance
    rows = (
        ("defense", record.defense, "/defense"),
        ("recipe", record.recipe, "/recipe"),
        ("dataset", record.dataset, "/dataset"),
        ("images", str(record.images), "/images"),
        ("submissions of each image", str(record.submissions), "/submissions"),
        ("gradients", "bfloat16" if record.bfloat16 else "float32", "/bfloat16"),
        *_batch_invariance(record),
        *((name.replace("_", " "), str(getattr(made, name)), f"/provenance/{name}") for name in _PROVENANCE),
    )
    columns = (Column("what", numeric=False), Column("value", numeric=False))
    body = tuple((Cell(name), Cell(plain(value), source=source)) for name, value, source in rows)
    return Table("Provenance", columns, body)


def _batch_invariance(record: Record) -> tuple[tuple[str, str, str], ...]:
    """Return the line about it; none for records from before it was measured."""
    measured = record.batch_invariance
    if measured is None:
        return ()
    said = f"the same in any batch and order, in passes of multiples of {measured.granule}"
    if measured.granule is None:
        said = "drawn at random" if measured.randomised else "batch and order may change them"
    return (("answers", said, "/batch_invariance"),)


_PROVENANCE = ("version", "git", "seed", "device", "torch", "recipe_sha256")


_CHECK = "what should hold (if the check failed: what is wrong)"


def audit_table(record: Record, *, explained: bool = True) -> Table:
    """Return the audit, failed checks first, each by what is wrong.

    Where it is not `explained`, without meanings and remedies, and without the checks that passed.
    """
    names = (_CHECK, "verdict", "value", "meaning", "remedy")[: 5 if explained else 3]
    columns, sources = tuple(Column(name, numeric=name == "value") for name in names), Sources(record)
    rows = tuple(
        (
            Cell(_said(line), "" if explained else _reason(line)),
            Cell(f"{SYMBOLS[line.verdict]} {line.verdict}", strong=line.verdict == "fail"),
            Cell(number(line.value), source=sources.of(line, "value")),
            Cell(plain(line.meaning)),
            Cell(plain(line.remedy)),
        )[: len(names)]
        for line in audit_lines(record)
        if explained or line.verdict != "pass"
    )
    return Table("Audit", columns, rows, () if rows and explained else (audit_sentence(record),))


def _said(line: AuditLine) -> str:
    """Return a check's name, which says what should be so; of a failed one, what is wrong, with its name."""
    name = plain(line.check)
    return f"{failure(line)} (check: {name})" if line.verdict == "fail" else name


def _reason(line: AuditLine) -> str:
    """Return why a check was not run, for a table without meanings; nothing for one that was."""
    _, found, reason = line.meaning.rpartition("not run: ")
    return f"({plain(reason)})" if found and line.verdict == "not run" else ""


def cascade_tables(record: Record) -> tuple[Table, ...]:
    """Return one table for each ball's cascade, attacks in the order taken."""
    sources = Sources(record)
    return tuple(_cascade_table(cascade, record.images, sources) for cascade in record.cascades)


def _cascade_table(cascade: CascadeRecord, images: int, sources: Sources) -> Table:
    columns = (
        Column("attack", numeric=False),
        Column("knowledge", numeric=False),
        Column("tried"),
        Column("broke"),
        Column("broke first"),
        Column("forward", "passes an image"),
        Column("backward", "passes an image"),
        Column("seconds"),
        Column("note", numeric=False),
    )
    rows = tuple(
        (
            Cell(attack_label(stage)),
            Cell(knowledge_label(stage.knowledge)),
            Cell(f"{stage.tried:,}", source=f"{source}/tried"),
            Cell(f"{stage.fooled:,}", source=f"{source}/fooled"),
            Cell(f"{stage.first:,}", strong=stage.first > 0, source=f"{source}/first"),
            Cell(f"{stage.forward_passes / images:.1f}", source=f"{source}/forward_passes"),
            Cell(f"{stage.backward_passes / images:.1f}", source=f"{source}/backward_passes"),
            Cell(f"{stage.seconds:.1f}", source=f"{source}/seconds"),
            Cell(plain(_stage_note(stage.note, stage.disagreements))),
        )
        for stage, source in zip(cascade.stages, map(sources.of, cascade.stages), strict=True)
    )
    notes = (
        "Each attack was tried only on images that the attacks above it had not broken. Cheap attacks (scouts) are "
        "first compared on a few images.",
        "Passes: forward and backward passes of the model, divided by the number of all images.",
    )
    return Table(f"Cascade, {ball_text(cascade.norm, cascade.epsilon)}", columns, rows, notes)


def _stage_note(note: str, disagreements: int) -> str:
    said = [note] if note else []
    if disagreements:
        said.append(f"{disagreements} verdicts changed when the defense was asked again")
    return "; ".join(said)


_DETECTION_NAMES = (
    Column("attack", numeric=False),
    Column("ball", numeric=False),
    Column("the flag is", numeric=False),
    Column("score", numeric=False),
)


def detection_tables(record: Record) -> tuple[Table, ...]:
    """Return two tables, one of scores and one of the flag; none where detection was not evaluated."""
    if not record.detection:
        return ()
    sources = Sources(record)
    return _separation_table(record, sources), _flag_table(record, sources)


def _separation_table(record: Record, sources: Sources) -> Table:
    kinds = ("all attacked", "fooled")
    titles = {"auroc": "AUROC", "tpr_at_1": "TPR at 1 %", "tpr_at_5": "TPR at 5 %"}
    columns = (*_DETECTION_NAMES, *(Column(title, kind) for title in titles.values() for kind in kinds))
    rows = tuple(
        (*_named(one), *(_measure(part, name, sources) for name in titles for part in (one.attacked, one.fooled)))
        for one in record.detection
    )
    notes = (
        f"Attacked images compared with {record.images:,} clean test images. AUROC: ties count half; 0.5 is "
        "chance.",
        "TPR: share of attacked images, in %, whose score is above that of all but 1 % or 5 % of these clean "
        "images.",
        f"{MISSING}: not all attacked images were kept, or none fools the defense.",
    )
    return Table("Detection: how well the scores separate", columns, rows, notes)


def _flag_table(record: Record, sources: Sources) -> Table:
    columns = (
        *_DETECTION_NAMES,
        Column("false alarms"),
        Column("fooled images flagged"),
        Column("clean", "right and accepted"),
        Column("attacked", "right or rejected"),
    )
    rows = tuple(
        (
            *_named(one),
            _accuracy(one.clean_flagged, sources),
            Cell(MISSING) if one.fooled is None else _accuracy(one.fooled.flagged, sources),
            _accuracy(one.clean_right, sources),
            _accuracy(one.attacked_right, sources, strong=one.fights_flag),
        )
        for one in record.detection
    )
    first = record.detection[0]
    notes = (
        f"In %, with its 95 % interval. Thresholds for {percent(first.false_alarms)} % false alarms come from "
        f"{first.calibration_images:,} held-out clean images, never from test images.",
        "Attacked: images that are right when clean, and right or rejected under this attack; an image that is "
        "wrong when clean counts as wrong. An attack that avoids the flag avoids the score of its row.",
    )
    return Table("Detection: the flag at its threshold", columns, rows, notes)


def _named(one: DetectionResult) -> tuple[Cell, ...]:
    known = "" if one.knowledge == "any" else f", {knowledge_label(one.knowledge)}"
    return (
        Cell(f"{plain(one.attack)}{known}"),
        Cell(ball_text(one.norm, one.epsilon)),
        Cell("fought" if one.fights_flag else "ignored"),
        Cell(plain(one.score)),
    )


def _measure(part: Separation | None, name: str, sources: Sources) -> Cell:
    if part is None:
        return Cell(MISSING)
    value = float(getattr(part, name))
    return Cell(f"{value:.3f}" if name == "auroc" else percent(value), source=sources.of(part, name))
