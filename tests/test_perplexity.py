"""Rolling perplexity: windows, sums, and equality with lm-evaluation-harness."""

import math

import lightning as L
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from papertrail.core.errors import BadInput
from papertrail.nn.perplexity import (
    WindowBatches,
    corpus_level,
    evaluate,
    nll_within_memory,
    plan,
    read,
    windows,
)
from papertrail.nn.scoring import span_nll, token_nll

TEXTS = [
    "Every number of a paper is a run, and every table is a query over runs. " * 4,
    "One line.",
    "",
    "Café, naïve, 東京 -- bytes are not characters,\n\n  and words are split at   white space.",
    "A run is a pure function of its configuration. " * 9,
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXTS, vocab_size=300, special_tokens=["<|end|>"], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<|end|>", eos_token="<|end|>"
    )


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> GPTNeoXForCausalLM:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,  # far from uniform, so that context matters
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPTNeoXForCausalLM(config).eval()


def trainer() -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def scores(model, tokenizer, window, stride, tokens_per_batch=100) -> pd.DataFrame:
    budget = {"window": window, "stride": stride, "tokens_per_batch": tokens_per_batch}
    return evaluate(model, tokenizer, TEXTS, trainer(), **budget)


lengths = st.integers(0, 70)
spans = st.integers(1, 20).flatmap(lambda w: st.tuples(st.just(w), st.integers(1, w)))


@settings(deadline=None)  # a loaded machine is slow, not wrong
@given(lengths, spans)
def test_every_token_is_scored_exactly_once_and_in_order(num_tokens, span):
    scored = [t for w in windows(num_tokens, *span) for t in range(w.first_scored, w.end)]
    assert scored == list(range(1, num_tokens + 1))


@settings(deadline=None)  # a loaded machine is slow, not wrong
@given(lengths, spans)
def test_a_window_never_feeds_more_than_the_model_reads_and_always_some_context(num_tokens, span):
    window, stride = span
    for number, w in enumerate(windows(num_tokens, window, stride)):
        assert 0 <= w.begin < w.first_scored
        assert w.end - 1 - w.begin <= window
        if number:
            assert w.first_scored - w.begin >= window - stride + 1
            assert w.end - 1 - w.begin == window


@settings(deadline=None)  # a loaded machine is slow, not wrong
@given(lengths, spans)
def test_windows_are_those_of_lm_evaluation_harness(num_tokens, span):
    utils = pytest.importorskip("lm_eval.utils")
    window, stride = span
    ids = list(range(num_tokens + 1))
    theirs = map(
        utils.make_disjoint_window,
        utils.get_rolling_token_windows(ids[1:], 0, window, window - stride + 1),
    )
    ours = [
        (ids[w.begin : w.first_scored], ids[w.first_scored : w.end])
        for w in windows(num_tokens, window, stride)
    ]
    assert ours == list(theirs)


@pytest.mark.parametrize(("window", "stride"), [(32, 32), (16, 16), (16, 5), (7, 1)])
def test_documents_score_as_in_a_naive_loop_over_tokens(model, tokenizer, window, stride):
    frame = scores(model, tokenizer, window, stride)
    for text, nll in zip(TEXTS, frame["nll"], strict=True):
        ids = [0, *tokenizer.encode(text)]
        expected = 0.0
        for w in windows(len(ids) - 1, window, stride):
            for t in range(w.first_scored, w.end):
                with torch.no_grad():
                    logits = model(torch.tensor([ids[w.begin : t]])).logits[0, -1].double()
                expected -= logits.log_softmax(-1)[ids[t]].item()
        assert nll == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("window", [32, 11])
def test_documents_score_as_under_lm_evaluation_harness(model, tokenizer, window):
    hf = pytest.importorskip("lm_eval.models.huggingface")
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    harness = hf.HFLM(model, tokenizer=tokenizer, batch_size=3, max_length=window)
    requests = [instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(TEXTS)]
    theirs = harness.loglikelihood_rolling(requests, disable_tqdm=True)
    ours = scores(model, tokenizer, window, window)
    assert list(-ours["nll"]) == pytest.approx(theirs, rel=1e-6, abs=1e-9)


def test_words_and_bytes_are_counted_as_by_lm_evaluation_harness(model, tokenizer):
    task = pytest.importorskip("lm_eval.api.task").PerplexityTask
    frame = scores(model, tokenizer, 32, 32)
    assert list(frame["num_words"]) == [task.count_words(text) for text in TEXTS]
    assert list(frame["num_bytes"]) == [task.count_bytes(text) for text in TEXTS]


def test_a_smaller_stride_gives_more_context_and_changes_the_score(model, tokenizer):
    assert (
        abs(scores(model, tokenizer, 16, 4)["nll"] - scores(model, tokenizer, 16, 16)["nll"]).max()
        > 1
    )


def test_scores_do_not_depend_on_what_shares_a_batch(model, tokenizer):
    small, large = (scores(model, tokenizer, 16, 8, budget)["nll"] for budget in (1, 10_000))
    assert list(small) == pytest.approx(list(large), rel=1e-6)


def test_batches_hold_every_window_once_within_the_budget(tokenizer):
    documents = read(TEXTS, tokenizer)
    planned = plan(documents, 16, 8)
    batches = WindowBatches(documents, planned, 50)
    every = [batches[i] for i in range(len(batches))]
    assert torch.cat([batch.windows for batch in every]).tolist() == list(range(len(planned)))
    assert all(batch.ids.numel() <= 50 for batch in every)
    assert sum(int(batch.scored.sum()) for batch in every) == sum(len(d.ids) - 1 for d in documents)


def test_corpus_numbers_are_ratios_of_sums_not_means_over_documents():
    frame = pd.DataFrame(
        {
            "doc": [0, 1],
            "num_tokens": [1, 3],
            "num_bytes": [2, 14],
            "num_words": [1, 1],
            "nll": [8 * math.log(2), 0.0],
        }
    )
    assert corpus_level(frame) == pytest.approx(
        {
            "loss": 2 * math.log(2),
            "perplexity": 4,
            "bits_per_byte": 0.5,
            "byte_perplexity": 2**0.5,
            "word_perplexity": 16,
        }
    )


def test_a_batch_that_does_not_fit_is_halved_and_no_row_is_lost(model):
    ids = torch.randint(50, (7, 9), generator=torch.Generator().manual_seed(0))
    scored = torch.ones_like(ids, dtype=torch.bool).index_fill(1, torch.tensor([0]), False)
    with torch.no_grad():
        expected = span_nll(model, ids, scored)
    sizes = []

    def small_memory(module, args, kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError

    hook = model.gpt_neox.register_forward_pre_hook(small_memory, with_kwargs=True)
    with torch.no_grad():
        torch.testing.assert_close(nll_within_memory(model, ids, scored), expected)
    hook.remove()
    assert sizes == [7, 3, 1, 2, 4, 2, 2]


def test_a_row_that_does_not_fit_alone_is_an_error(model):
    def no_memory(module, args):
        raise torch.OutOfMemoryError

    hook = model.gpt_neox.register_forward_pre_hook(no_memory)
    ids = torch.zeros(2, 4, dtype=torch.long)
    with pytest.raises(torch.OutOfMemoryError):
        nll_within_memory(model, ids, ids.bool())
    hook.remove()


def test_token_nll_is_the_loss_of_transformers_token_by_token(model):
    ids = torch.randint(50, (12, 33), generator=torch.Generator().manual_seed(0))
    scored = torch.ones_like(ids, dtype=torch.bool)
    scored[:, 0] = False
    scored[1, 20:] = False
    labels = ids.masked_fill(~scored, -100)
    with torch.no_grad():
        ours = token_nll(model, ids, scored)
        theirs = model(ids, labels=labels).loss
    assert ours.shape == (11 * 32 + 19,)  # more than one chunk of logits
    torch.testing.assert_close(ours.mean(), theirs)


def test_embeddings_stand_in_for_ids_and_carry_gradients_to_what_is_read(model):
    ids = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0))
    scored = torch.zeros_like(ids, dtype=torch.bool)
    scored[:, 3:6] = True
    embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
    nll = span_nll(model, ids, scored, embeds)
    torch.testing.assert_close(nll, span_nll(model, ids, scored))
    (gradient,) = torch.autograd.grad(nll.sum(), embeds)
    read = gradient.abs().sum((0, 2)) > 0
    assert read.tolist() == [True] * 5 + [False] * 4


@pytest.mark.parametrize("stride", [0, 17])
def test_a_stride_outside_the_window_is_refused(tokenizer, stride):
    with pytest.raises(BadInput, match=rf"stride: not within 1\.\.window \({stride}, window 16\)"):
        plan(read(TEXTS, tokenizer), 16, stride)


def test_a_window_beyond_the_context_of_the_model_is_refused(model, tokenizer):
    with pytest.raises(BadInput, match=r"model's context \(33\); use at most 32"):
        scores(model, tokenizer, 33, 33)


def test_texts_without_a_token_are_refused(tokenizer):
    with pytest.raises(BadInput, match="no token in any of 1 documents"):
        plan(read([""], tokenizer), 16, 16)
    with pytest.raises(BadInput, match="no document"):
        read([], tokenizer)
