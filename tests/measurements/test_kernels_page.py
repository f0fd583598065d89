"""Every block of the page about kernels runs as printed, in order."""

import re
from pathlib import Path

import stabilitykit as sk

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"


class Asking:
    """What the fixture does with a measurement."""

    def measure(self, measurement, subject):
        return sk.measure(measurement, subject, progress=False)


def test_the_page_runs(capsys):
    names = {"__name__": __name__}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 7
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    said = capsys.readouterr().out
    assert "softmax rounds" in said
    assert "plain and fused differ in" in said
    assert names["result"].verdict == "measured"
    names["test_product"](Asking())
    alone = sk.measure(sk.KernelAccuracy(shapes=[(4, 64, 8)], tries=1), names["product"], progress=False)
    assert alone.verdict == "differs"
    assert alone.readings["batch_differing_bits"].value > 0
