"""Plain words for a reader who meets these measurements for the first time: chapters, questions, glossary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Chapter:
    """A part of the page: its title, one sentence, and the question each of its measurements asks."""

    title: str
    lead: str
    questions: Mapping[str, str]


CHAPTERS = (
    Chapter(
        "Regimes",
        "From the smallest step to the largest: where the output does not react, where it reacts with rounding noise, "
        "and where it follows the function that the model stands for.",
        {
            "Regimes": "Up to which step is the output stable, and from which on does it follow the true function?",
        },
    ),
    Chapter(
        "Stability boundary",
        "Around one input: how much room is there before a single output bit changes? Found bit by bit and certified.",
        {
            "StabilityFan": "How far can the input move, in each direction of a plane, before one output bit changes?",
            "StabilitySpectrum": "Is the first change nearer along the directions the output reacts to most?",
            "FirstChange": "How far can the input move along a direction before one output bit changes?",
            "BoundaryJump": "How far does the output jump at the first change, next to the step that caused it?",
            "Staircase": "Along one direction, where do the steps of the output lie, and how high are they?",
            "Rotation": "Does it matter which coordinates a small step moves?",
        },
    ),
    Chapter(
        "Gain",
        "How much a small change of the input is stretched on its way through the model, and what rounding adds.",
        {
            "SingularSpectrum": "How many times as long does a small change of the input leave the model, at the most?",
            "DirectionalGain": "How much does the output really move for a step of the input along a given direction?",
            "GainByDtype": "Is the gain the same in float32, in bfloat16 and in true float64?",
            "Representability": "How much of a small step survives when the input is rounded to its dtype?",
            "NoiseTest": "How often does noise in the input, of rounding size or larger, change the next token?",
        },
    ),
    Chapter(
        "Ties and flips",
        "Where two tokens have equal logits rounding decides between them: how far that is, and what flips the token.",
        {
            "Tie": "How far is the input at which the two likeliest tokens have equal logits?",
            "FlipScan": "Along a line, which of the two tokens wins, and is it the function that decides or rounding?",
            "Landscape": "Where two tokens are equally likely, is the line between them clean or noise?",
            "Zoom": "What does that line look like from closer by?",
        },
    ),
    Chapter(
        "Propagation",
        "What happens to a tiny change inside the model, from block to block and module to module.",
        {
            "LayerProfile": "Where in the model does a tiny change of the input grow?",
            "SubmoduleProfile": "Which module of a block reacts to it, and how much of that is rounding?",
            "ModuleSpectrum": "How far can each block stretch a change, and does the change meet that direction?",
            "Fate": "In which block is it decided whether a changed input leaves the output unchanged?",
        },
    ),
    Chapter(
        "Next tokens",
        "Whether the text that the model writes hangs by a thread, and which prompts would read differently elsewhere.",
        {
            "Margins": "Which prompts would another device continue with another token?",
            "WordByWord": "How well is each next word of a text predicted, and which of them hang by a thread?",
            "Ledger": "Which operation's rounding moved the margin of the next token, and by how much?",
        },
    ),
    Chapter(
        "Readout",
        "The last state and the head: how the numbers of one vector become one token, and how near another one is.",
        {
            "PredictionSpread": "How many components of the last state does the next token need?",
            "BasisVectors": "What does each component say by itself, and which of them stick out?",
            "ReadoutAngles": "At which angles does the state stand to the tokens, and how far is the nearest tie?",
            "NormAlignment": "Does the final norm turn the state towards another token?",
            "HeadReplay": "Does the head give the same bits again, and what does it say in another shape?",
        },
    ),
    Chapter(
        "Questions and roles",
        "Questions with an answer and questions without one: which answers hang by a thread, and what a role changes.",
        {
            "PromptSuite": "Are answers to questions that assume what is false nearer to a flip?",
            "Geometry": "How do the states behind prompts lie, and how far does a role move them?",
        },
    ),
    Chapter(
        "Two machines",
        "The same model, the same prompts, other kernels: where texts part, where bits part, and who decided it.",
        {
            "CrossDevice": "Does another device say the same, and where do the bits part?",
            "TraceComparison": "Do two recordings agree, and if not, at which token and at which stage do they part?",
            "CrossDrift": "How far are its states from ours, and where do the two come to prefer other tokens?",
            "Drift": "How far are two runs apart on their way, and where do they come to prefer other tokens?",
            "Trace": "Does a generation come back, bit for bit, at every stage of every token?",
        },
    ),
    Chapter(
        "Servers",
        "A model behind an address: nobody sees its bits, but everybody can ask it the same again.",
        {
            "ServedDeterminism": "Does a server say the same again at temperature 0, alone and under load?",
        },
    ),
    Chapter(
        "Parts",
        "Single operations, weights and blocks, at the inputs they have in the model.",
        {
            "MatmulChain": "How is a small change magnified by a chain of random matrices?",
            "WeightGain": "How is it magnified by one weight matrix of the model?",
            "BlockGain": "How is it magnified by one block of the model?",
            "OperatorProbe": "Which bits does this machine give for single operations, and how near are they?",
            "KernelAccuracy": "How far is a kernel from the correctly rounded result, and is it invariant?",
            "KernelPair": "Do two implementations of one operation agree, and which one is nearer to the truth?",
        },
    ),
    Chapter(
        "Weights",
        "The weights themselves, without a forward: how large they are, how heavy their tails, how even their heads.",
        {
            "HeadSpectra": "How unevenly does each attention head stretch what it reads, next to random weights?",
            "HeadProducts": "How few directions does each head compare, and how few does it carry?",
            "WeightStatistics": "How large are the weights of each block, and which one stands apart?",
            "WeightExport": "Does every weight come back from a file of its own, bit for bit?",
        },
    ),
    Chapter(
        "Tokens that explode",
        "A few tokens grow hundreds of times as long as all others. The weights foretell where; rounding feels it.",
        {
            "SingularDefects": "Which tokens explode, in which blocks, and do the weights of these say so?",
            "KeptProjections": "Is the model better in 8 bits if the down-projections of these blocks stay?",
            "BlockFlips": "Does rounding change tokens by way of these blocks, or of the others?",
            "Signature": "Along which direction do they explode, and is it the direction of another model?",
        },
    ),
    Chapter(
        "Invariances",
        "Things that should not matter and, in floating-point arithmetic, may: what else is computed, where and when.",
        {
            "BatchInvariance": "Does a row give the same bits alone and among other rows?",
            "RunToRun": "Does the same computation give the same bits when it is repeated?",
            "ProcessInvariance": "Does a fresh process give the same bits?",
            "PaddingInvariance": "Does padding a prompt change the bits of its output?",
            "CacheInvariance": "Does reading the prompt from a cache give the same bits as computing it again?",
            "ThreadInvariance": "Does the number of threads change the bits?",
        },
    ),
    Chapter(
        "Power",
        "What the checks are worth: bugs put into the model on purpose, one at a time, and which check saw them.",
        {
            "FaultPower": "Which of these bugs would the checks have caught?",
        },
    ),
    Chapter(
        "Worst direction found by Hypothesis",
        "Many directions were drawn at random and steered towards the largest reaction; this is the worst one met.",
        {},
    ),
    Chapter("Further measurements", "Everything else that this run measured.", {}),
    Chapter("Not measured", "Checks without a result, each with its reason.", {}),
)
"""In reading order. The last three gather by other signs than the class: searched, unknown, without a result."""

SEARCHED, FURTHER, UNMEASURED = len(CHAPTERS) - 3, len(CHAPTERS) - 2, len(CHAPTERS) - 1

GLOSSARY = {
    "ULP": "Unit in the last place: the gap between a floating-point number and its neighbour. One ULP is the smallest "
    "difference two numbers of that size can have.",
    "scaled ULP": "A difference in units of the gap at the largest number of the output, so that noise in a number "
    "near zero does not count as huge.",
    "excess": "The error of a kernel over what rounding its result, or one ULP of its inputs, would cause as well. Up "
    "to 1 nothing can be held against it; sums of many terms reach some tens; a narrow accumulator thousands.",
    "correctly rounded": "Equal to the true result, rounded once to the dtype: no better result exists in it.",
    "input lattice": "The grid of inputs that floating-point numbers can represent. Between two grid points the input, "
    "and so the output, cannot change.",
    "stable": "Steps so small that no bit of the output changes.",
    "chaotic": "Steps at which the output moves, but as its rounding does, not as the function: the change is off by "
    "more than a tenth.",
    "signal": "Steps at which the output changes as the same function does in float64, to within a tenth.",
    "radius": "The largest step along a direction for which every output bit stays the same.",
    "lattice radius": "The step at which the rounded input itself first changes. No model can react earlier.",
    "rho": "Radius divided by lattice radius: 1 means that the very first change of the input comes through.",
    "cell": "A stretch along a direction on which the rounded input stays the same; cells are counted from the start.",
    "exact": "Both sides of the first change are adjacent floating-point steps, and nothing between was left out.",
    "censored": "No change was found up to the end of the search, so the true radius is at least the number shown.",
    "island": "A stretch beyond the first change on which the output has the unperturbed output's bits again.",
    "band width": "Where two tokens should be parted by a line, the stretch across it on which either may win.",
    "roughness": "How often neighbouring cells of a map differ: 0 as on the predicted line, 1 as if shuffled.",
    "flat map": "A map in which one token wins everywhere. It shows no line, and nothing about noise.",
    "Moran's I": "Whether equal cells of a map lie together: 1 in large blocks, 0 by chance, -1 as on a checkerboard.",
    "noise floor": "How far apart equal evaluations of the same input lie, in other batches, threads and paths. A jump "
    "of that size is rounding, not a property of the function.",
    "amplification": "The jump of the output over the step of the input at the first change. It says how small the "
    "step was, unless the jump is well above the noise floor.",
    "null vector": "A singular vector whose strength is lost in rounding: which of these it is means nothing.",
    "control": "Random directions, searched like the others: what a direction without a meaning gives.",
    "rank correlation": "Whether one quantity goes up with another: 1 always, -1 down instead, 0 neither. At a fixed "
    "third one, what that one explains is taken out first.",
    "crossover scale": "The step length from which on the output follows the derivative; below it rounding decides.",
    "concentration": "Whether changes gather at some places: 0 is what chance would do, 1 is a single place.",
    "plateau": "The steps for which rounding makes less than a tenth of the change: the part's own magnification.",
    "rounding share": "How much rounding changes the output of a step, over what the step does without rounding.",
    "gain": "How many times as far as the input the output moves. Nominal: over the step that was asked for; realised: "
    "over the step that rounding left; true: without rounding in the model.",
    "realised step": "What rounding the input leaves of a step. Its alignment is 1 if it still goes in its direction.",
    "absorbed": "A step so small that the rounded input does not change at all: it has no gain.",
    "smoothed gain": "The gain averaged over noise that both inputs share, without the bias that averaging brings.",
    "rounding noise": "What rounding adds to the output if every coordinate of the input moves by one ULP.",
    "long token": "A token whose state is far longer than those of the others, by the widest gap of all norms. As a "
    "rule it is the first of a text, which the others attend to when they need nothing.",
    "explosion": "The block behind which long tokens are suddenly long; a decay is one that shortens them again.",
    "first direction": "The output direction that a block stretches most, by its weights alone. Open marks: a second "
    "one is stretched nearly as much, so the first means little.",
    "Rayleigh quotient": "u'(A + F)u: what the weights of a block add along the unit vector u; negative: they take.",
    "signature": "The direction of a model's long tokens. Fine-tuning keeps it, so a small angle tells kinship.",
    "margin": "The largest logit less the next one: what a token is chosen by. An exact tie has none, and the token "
    "with the lower id is taken.",
    "fragile word": "A word with a token whose two likeliest candidates lie within three times the noise, or one ULP, "
    "of each other: rounding may decide which comes first.",
    "perplexity": "Among how many equally likely tokens the model would be as uncertain as it is in this text.",
    "digest": "128 bits that stand for a tensor's dtype, shape and bytes: equal ones mean equal bits.",
    "stage": "A place in the model at which a recording listens: what a module returned, or was given.",
    "step": "One forward of a generation; step 0 reads the prompt, and each decides one token.",
    "divergence index": "The first token, counted from 0, at which two texts differ. Up to it both read the same.",
    "teacher forcing": "One side reads the other's tokens instead of its own, so that every step asks both the same.",
    "explained divergence": "Texts part where the margins moved by at least as much as was left of them: a near-tie.",
    "probe": "A digest of what single operations give on stored inputs. Equal probes are one device.",
    "deviation": "What all rounding of a forward does to the margin: as computed, less in true float64.",
    "contribution": "What one operation's own rounding does to the margin. All add up to the deviation; some cancel.",
    "typical deviation": "How large the deviation would be if every rounding's sign were a coin's: the size that "
    "another device, whose signs differ, is likely to show.",
    "remainder": "What the contributions do not explain of the deviation, and what rounds unseen.",
    "flip forecast": "The chance that another device takes another token, from the token's margin and the noise that "
    "other ways of computing the same text show here.",
    "flip rate": "The share of disturbed inputs after which the model would say another token.",
    "tie": "An input at which two tokens have equal logits, in the model's own bits; in exact arithmetic nearly so.",
    "chatter": "The order of two logits changes many times along a line on which the function crosses only once.",
    "reference": "What a server says most often when it is asked alone. Anything else it says counts as a flip.",
    "under way": "How many requests waited for an answer at one moment; how many of them the server took together is "
    "its secret, and the speed-up over one by one a hint.",
    "flip": "Another token has the largest logit. The smallest flip is one ULP of one coordinate.",
    "third token": "The best token beside the two that are asked about; where it comes first, their order is idle.",
    "growth": "How many times larger a change is behind a block than before it, next to the length of the state.",
    "avalanche": "Rounding takes over: from this block on a change is more than twice as long as in exact arithmetic.",
    "excess of a state": "The rounding that a state carries, over its true change. Above 1 rounding is the larger.",
    "fate": "Where a changed input's states become equal to the unchanged input's again, bit for bit, or never.",
    "residual stream": "What each block adds to. A branch is what it adds: attention or MLP, with the norm before it.",
    "chain bound": "The product of how far each part can stretch a change: a bound on the whole, and how loose it is.",
    "alignment": "Whether a change meets the direction that a part stretches most: 1 it does, near 0 it does not.",
    "share of the error": "How much of the output's rounding error is one part's own. All parts add up to 1.",
    "First/Last": "The largest singular value of a head's matrix over its smallest: 1 if it is even.",
    "Top-10": "The share of the sum of a head's singular values that the ten largest hold; Least-10 the ten smallest.",
    "null": "What random weights of the same shape would give: the size that needs no explanation.",
    "entropy rank": "Over how many directions a matrix spreads what it does: 1 to all of them.",
    "deficient": "A head that ignores some direction, as far as the rounding of its weights can tell.",
    "kurtosis": "How heavy the tails of a weight are: 0 for a Gaussian, large where a few elements dominate.",
    "components needed": "How many components of the last state, the largest first, give the next token nine tenths of "
    "its probability: when first, and from when on for good.",
    "line margin": "By how much the curve of the probability misses the line where it is nearest: a smaller error "
    "moves no count.",
    "decision plane": "The last states on which two tokens have equal logits: the change that it takes for a tie.",
    "logit lens": "What the model would say if it ended behind a block: its state read by the final norm and the head.",
    "basis vector": "A column of the head: what one unit of one component adds to the logit of every token.",
    "near tie": "Two logits at most one bfloat16 ULP apart: what 16 bits cannot tell apart, or only just.",
    "clustered interval": "An interval that draws whole questions, since prompts of one question are alike.",
    "role drift": "How far a role moves the state behind a question, as 1 - cosine.",
    "tied": "Embedding and head are the same numbers, bit for bit: tokens leave by the rows they entered by.",
    "singular value": "The factor by which the model stretches a small change along one direction of its input.",
    "residual": "How far a computed singular value can be from the true one, from the equation it should satisfy.",
}


def chapter(measurement: str | None, *, searched: bool) -> int:
    """Return the index of the chapter that a check belongs to."""
    if measurement is None:
        return UNMEASURED
    if searched:
        return SEARCHED
    return next((place for place, part in enumerate(CHAPTERS) if measurement in part.questions), FURTHER)


def question(measurement: str) -> str:
    """Return what the measurement asks, or nothing for one that this page does not know."""
    return next((part.questions[measurement] for part in CHAPTERS if measurement in part.questions), "")
