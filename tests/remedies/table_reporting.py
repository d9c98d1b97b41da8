"""Messages of reports."""

from remedies.cases import Case

ROOMS = ("reporting",)

PARTS = """
good = {
    "images": images, "adversarial": images, "labels": labels, "predictions_clean": labels,
    "predictions_adversarial": labels, "classes": ("a", "b", "c", "d"), "attack": "pgd", "knowledge": "end-to-end",
    "norm": "linf", "epsilon": 0.1, "defense": "mine", "attention_clean": torch.ones(8, 4),
    "attention_adversarial": torch.ones(8, 4), "reconstructions": torch.rand(8, 4, 1, 4, 4),
}
"""
RECORD = "record = evaluate(net, images, labels, epsilon=0.1, attacks='fgsm')"


def part(says: str, wrong: str, right: str = "Gallery(**good)") -> Case:
    """Return a case of a gallery's parts: one replaced by what is refused."""
    return Case("reporting/gallery.py", says, f"Gallery(**good | {{{wrong}}})", right, given=PARTS)


CASES = (
    Case(
        "reporting/selection.py",
        "make it again with 'memdef evaluate RUN --rejection-cost 0.1'",
        "compared([Section('mine', record)], 'linf', 0.1)",
        r"""
        memdef("«'(memdef .*?)'» --epsilon 0.1 --images 2 --attacks fgsm --out new.json")
        compared([Section("mine", Record.read(Path("new.json")))], "linf", 0.1)
        """,
        given=f"run('RUN'); {RECORD}",
    ),
    Case(
        "reporting/figures.py",
        "'memdef evaluate RUN' attacks at the radii of the recipe's curve",
        "accuracy_figure(record, 'linf', prefix='a')",
        r"""
        memdef("«'(memdef .*?)'» --images 2")
        accuracy_figure(Record.read(Path("RUN/record.json")), "linf", prefix="a")
        """,
        given=f"run('RUN'); {RECORD}",
        within="the record of … holds no curve in the norm …; …",
    ),
    Case(
        "reporting/figures.py",
        "draw …",
        "accuracy_figure(Record.read(run(evaluated=True) / 'record.json'), 'l2', prefix='a')",
        r"accuracy_figure(Record.read(Path('run/record.json')), «draw (.*)», prefix='a')",
        within="the record of … holds no curve in the norm …; …",
    ),
    part("there are no classes; name at least one", "'classes': ()"),
    part("expected a finite number of at least 0", "'epsilon': -0.1"),
    part(
        "channels, expected 1 (grey) or 3 (RGB)",
        "'images': images.expand(-1, 2, -1, -1), 'adversarial': images.expand(-1, 2, -1, -1)",
    ),
    part("has shape …, expected …", "'adversarial': images[:3]"),
    part("expected whole numbers (torch.int64)", "'labels': labels.float()"),
    part("but there are … classes, from 0", "'labels': labels + 4"),
    part("is …, expected torch.float32", "'reconstructions': torch.zeros(8, 4, 1, 4, 4, dtype=torch.int64)"),
    part(
        "holds NaN or infinite values; remove those images",
        "'reconstructions': torch.rand(8, 4, 1, 4, 4).where(labels[:, None, None, None, None] > 0, torch.nan)",
        """
        fine = labels > 0
        made = {name: one[fine] if isinstance(one, torch.Tensor) else one for name, one in good.items()}
        assert len(Gallery(**made)) == fine.sum()
        """,
    ),
    part(
        "give both … and …, or neither",
        "'attention_clean': None",
        r"""
        both = {name: torch.ones(8, 4) for name in ("«both (\w+)»", "«and (attention_\w+)»")}
        Gallery(**good | both)
        Gallery(**good | dict.fromkeys(both))
        """,
    ),
    part(
        "give each slot as many",
        "'attention_clean': torch.ones(8, 6), 'attention_adversarial': torch.ones(8, 6)",
        "Gallery(**good | {'attention_clean': torch.ones(8, 8), 'attention_adversarial': torch.ones(8, 8)})",
    ),
    part("weights are at least 0", "'attention_clean': -torch.ones(8, 4)"),
    Case(
        "reporting/gallery.py",
        "is not a gallery: …. 'memdef evaluate RUN' writes it again; without the file, pages show no images",
        "memdef('memdef report RUN')",
        r"""
        Path("«([^ ]*) is not»").unlink()
        memdef("memdef report RUN")
        shutil.move("RUN/record.json", "before.json")
        memdef("«'(memdef .*?)'» --images 2")
        assert Gallery.read(Path("«([^ ]*) is not»"))
        """,
        given="""
        from safetensors.torch import save_file
        run("RUN", evaluated=True)
        save_file({"images": images}, "RUN/gallery.safetensors")
        """,
    ),
    Case(
        "reporting/html.py",
        "a report needs at least one evaluated system",
        "write_report(Path('report.html'), [], title='Mine')",
        f"{RECORD}; write_report(Path('report.html'), [Section('mine', record)], title='Mine')",
    ),
    Case(
        "reporting/html.py",
        "gallery_limit is …, expected at least 0",
        "write_report(Path('report.html'), [Section('mine', record)], title='Mine', gallery_limit=-1)",
        r"""
        limit = «at least (\d)»
        write_report(Path('report.html'), [Section('mine', record)], title='Mine', gallery_limit=limit)
        """,
        given=RECORD,
    ),
    Case(
        "reporting/sources.py",
        "points at nothing in a record; write it as /attacks/3/accuracy",
        "anchor('record-1', 'attacks[3].accuracy')",
        "anchor('record-1', '«write it as (.*)»')",
    ),
    Case(
        "reporting/hub.py",
        "has no known place on the Hub; give --hub-dataset OWNER/NAME",
        "record.write('r.json'); memdef('memdef report r.json --format eval-results')",
        "memdef('memdef report r.json --format eval-results «(--hub-dataset OWNER/NAME)»')",
        given=RECORD,
    ),
    Case(
        "reporting/hub.py",
        "but a dataset on the Hub is called OWNER/NAME",
        "record.write('r.json'); memdef('memdef report r.json --format eval-results --hub-dataset mine')",
        "memdef('memdef report r.json --format eval-results --hub-dataset «called (OWNER/NAME)»')",
        given=RECORD,
    ),
    Case(
        "reporting/notebook.py",
        "evaluate with epsilon=[0.05, 0.1], say",
        "record.model_copy(update={'worst_case': ()}).plot()",
        "evaluate(net, images, labels, attacks='fgsm', «(epsilon=.*?), say»).plot()",
        given=RECORD,
    ),
    Case(
        "reporting/notebook.py",
        "has no radius in the norm …; draw …",
        "record.plot('l2')",
        "record.plot(«draw (.*)»)",
        given=RECORD,
    ),
)
