"""Texts that only look like advice, and remedies that no test can carry out; each with its reason."""

EXEMPT: dict[tuple[str, str], str] = {
    ("wrappers/fit.py", "use images.to("): "it takes a second device, and tests have one",
    ("evaluation/audit/run.py", "auditing, check … of …, …"): "a line of progress",
    ("studio/uploads.py", "convert it or remove it"): "what is replaced by another remedy, and never shown",
    ("studio/uploads.py", "replace or remove it"): "what is replaced by another remedy, and never shown",
}
"""(source file, words of the text) to the reason."""
