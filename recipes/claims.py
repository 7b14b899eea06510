"""Write what became of the papers' claims into docs/claims.md, from the results: ``python recipes/claims.py``."""

from __future__ import annotations

from tables import ROOT, updated
from verdicts import Results, claims, short

from tiger.utils.markdown import markdown_table


def table(results: Results) -> str:
    """All claims, in Markdown."""
    lines = []
    for claim in claims(results):
        links = [f"[{file.removesuffix('.json')}](../recipes/results/{file})" for file in claim.files]
        measured = ", ".join(links) or (f"`{claim.command}`" if claim.command else "")
        lines.append([claim.text, claim.paper, claim.ours, claim.verdict, measured])
    heads = ["claim", "the paper", "ours", "verdict", "measured by the command in"]
    return markdown_table(heads, lines, left=len(heads)) + "\n"


def meaning_table(results: Results) -> str:
    """Purity, cosine, D3 and D4 by kind of codes."""
    heads = ["codes", "purity", "by chance", "cosine", "D3, lift", "D4, prefixes an item, head", "tail"]
    lines = []
    for file in results.files("code_meaning"):
        content = results.read(file)
        for kind, found in content["kinds"].items():
            kept = sum(items >= 100 for items in found["items_that_share"])
            cells = [_by_level(found[key][:kept], 2) for key in ("purity", "purity_by_chance", "cosine")]
            cells.append(_by_level(found["cooccurrence_lift"][:kept], 1))
            cells += [_by_level(found[part]["prefixes_per_item"], 2) for part in ("head", "tail")]
            lines.append([f"{content['dataset'].capitalize()}, {kind}", *cells])
    return markdown_table(heads, lines) + "\n"


def _by_level(values: list, digits: int) -> str:
    return " / ".join("" if value is None else f"{value:.{digits}f}" for value in values).strip(" /")


def invalid_table(results: Results) -> str:
    """Shares of invalid answers, recall and time, by model and beams."""
    heads = ["model", "beams", "invalid in the top 10 / 20 / 50, %", "R@10 as they come / items only / trie"]
    heads += ["R@10, history removed: items only / trie", "CPU ms a user: without / trie"]
    lines = []
    for file in results.files("invalid_ids"):
        content = results.read(file)
        for row in content["rows"]:
            cells = [f"{row['beams']}", " / ".join(f"{100 * value:.2f}" for value in row["invalid"].values())]
            cells += [" / ".join(map(short, row[f"recall@10, history {way}"].values())) for way in ("kept", "removed")]
            cells.append(" / ".join(f"{value:.1f}" for value in row["cpu milliseconds a user"].values()))
            lines.append([f"{content['dataset'].capitalize()}, {row['model']}", *cells])
    return markdown_table(heads, lines) + "\n"


def diversity_table(results: Results) -> str:
    """Entropy and recall by temperature."""
    heads = ["data set", "sampled", "temperature", "entropy@10 / 20 / 50", "R@10 / 20 / 50", "items in the top 10"]
    lines = []
    for file in results.files("diversity"):
        content = results.read(file)
        for row in content["rows"]:
            cells = [row["sampled"], "" if row["temperature"] is None else f"{row['temperature']:g}"]
            cells.append(" / ".join(f"{row[f'entropy@{place}']:.2f}" for place in (10, 20, 50)))
            cells.append(" / ".join(short(row[f"recall@{place}"]) for place in (10, 20, 50)))
            lines.append([content["dataset"].capitalize(), *cells, f"{row['items in the top 10']:,}"])
    return markdown_table(heads, lines, left=2) + "\n"


PARTS = {"claims": table, "meaning": meaning_table, "invalid": invalid_table, "diversity": diversity_table}


def page(text: str, results: Results) -> str:
    """The page with all tables of today's results."""
    for name, make in PARTS.items():
        text = updated(text, name, make(results))
    return text


def main() -> None:
    file = ROOT / "docs" / "claims.md"
    file.write_text(page(file.read_text(), Results(ROOT / "recipes" / "results")))
    print(file)


if __name__ == "__main__":
    main()
