"""Several results in one table, a row a block: do two things that were measured block by block go together?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stabilitykit.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from stabilitykit.results.result import Result

PLACES = ("block", "layer", "site", "part")


def by_block(results: Sequence[Result]) -> pd.DataFrame:
    """Return the numbers of each block that the results have, indexed by block, as columns `check_id.column`.

    Rows of a block are those with a `block`, a `layer` or the site `block:K`; of several (directions, steps, prompts)
    the median is taken. Rows of a `matrix` of a block, as HeadSpectra has, give columns of each: `head_spectra.q.s1`.
    Kinds of rows (`part`) that are about one block only, or have several rows of a block, are left
    out, and so are words but for `role`. A block that one result lacks has nan there. UsageError for a result without
    rows of blocks, or for none.
    """
    import pandas as pd

    if not results:
        raise UsageError("no result was given; by_block needs at least one")
    return pd.concat([_numbers(result) for result in results], axis=1).sort_index().rename_axis("block")


def _numbers(result: Result) -> pd.DataFrame:
    import pandas as pd

    frame = result.frame()
    frame["block"] = _blocks(frame)
    frame = frame.dropna(subset="block")
    if "part" in frame:
        frame = frame[frame["part"].isin(_by_block_parts(frame))].dropna(axis=1, how="all")
    if frame.empty:
        raise UsageError(f"{result.measurement} has no rows of blocks; give a result that looks at several of them")
    frame = frame.astype({"block": int})
    columns = frame.select_dtypes("number").columns.difference([*PLACES])
    if "matrix" in frame:
        tables = [
            own.groupby("block")[[*columns]].median().add_prefix(f"{result.check_id}.{matrix}.")
            for matrix, own in frame.groupby("matrix")
        ]
        return pd.concat(tables, axis=1)
    table = frame.groupby("block")[[*columns]].median()
    if "role" in frame:
        table["role"] = frame.dropna(subset="role").groupby("block")["role"].first()
    return table.add_prefix(f"{result.check_id}.")


def _by_block_parts(frame: pd.DataFrame) -> list[str]:
    """Return the kinds of rows of which every block has one, of each subject, and more than one block has any."""
    alone = [name for name in ("subject", "block", "matrix") if name in frame]
    parts = frame.groupby("part")
    return [str(name) for name, rows in parts if rows["block"].nunique() > 1 and not rows.duplicated(alone).any()]


def _blocks(frame: pd.DataFrame) -> pd.Series:
    """Return the block of each row, nan where it is about none."""
    import pandas as pd

    named = pd.Series(float("nan"), index=frame.index)
    for column in ("block", "layer"):
        if column in frame:
            named = named.fillna(pd.to_numeric(frame[column], errors="coerce"))
    if "site" in frame:
        number = frame["site"].astype(str).str.extract(r"^block:(\d+)$")[0]
        named = named.fillna(pd.to_numeric(number))
    return named
