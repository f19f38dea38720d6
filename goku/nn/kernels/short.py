"""Attention over short keys, in Triton: what `goku.nn.attend.short` runs.

With s = scale q k', p = exp(s - lse), delta = sum(o do): dv = p' do, ds = p (do v' - delta),
dk = scale ds' q, dq = scale ds k (FlashAttention, arXiv 2205.14135, appendix B.2). Programs are
numbered head by head within a block or run of queries, segment by segment. The backward writes
nothing to dq where a segment has no keys.
"""

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=("tokens", "blocks"))
def forward(
    q, k, v, o, lse, q_starts, k_starts, tokens, blocks, scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    head, number = tl.program_id(0) % HEADS, tl.program_id(0) // HEADS
    segment = number // blocks
    stop = tl.load(q_starts + segment + 1)
    first = tl.load(q_starts + segment) + number % blocks * QUERIES
    if first >= stop:
        return
    STRIDE: tl.constexpr = HEADS * WIDTH
    cols, row, key_row = tl.arange(0, WIDTH), tl.arange(0, QUERIES), tl.arange(0, KEYS)
    at = row[:, None] * STRIDE + cols[None, :]
    there = key_row[:, None] * STRIDE + cols[None, :]
    place = tl.cast(first, tl.int64) * STRIDE + head * WIDTH
    held = row < stop - first
    query = tl.load(q + place + at, mask=held[:, None], other=0.0)
    largest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, WIDTH], tl.float32)
    last_key = tl.load(k_starts + segment + 1)
    for first_key in range(tl.load(k_starts + segment), last_key, KEYS):
        known = key_row < last_key - first_key
        key_place = tl.cast(first_key, tl.int64) * STRIDE + head * WIDTH
        key = tl.load(k + key_place + there, mask=known[:, None], other=0.0)
        value = tl.load(v + key_place + there, mask=known[:, None], other=0.0)
        score = tl.dot(query, tl.trans(key)) * (scale * _LOG2_E)
        score = tl.where(known[None, :], score, float("-inf"))
        larger = tl.maximum(largest, tl.max(score, 1))
        weight = tl.exp2(score - larger[:, None])
        fade = tl.exp2(largest - larger)
        total = total * fade + tl.sum(weight, 1)
        mixed = tl.dot(weight.to(value.dtype), value, mixed * fade[:, None])
        largest = larger
    total = tl.where(total > 0, total, 1.0)  # without keys: zeros
    made = (mixed / total[:, None]).to(o.dtype.element_ty)
    tl.store(o + place + at, made, mask=held[:, None])
    summed = (largest + tl.log2(total)) / _LOG2_E
    tl.store(lse + tl.cast(head, tl.int64) * tokens + first + row, summed, mask=held)


@triton.jit(do_not_specialize=("tokens", "runs", "run"))
def backward(
    do, q, k, v, o, lse, dq, dk, dv, sums, deltas, q_starts, k_starts, tokens, runs, run, scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    ALONE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    head, number = tl.program_id(0) % HEADS, tl.program_id(0) // HEADS
    segment = number // runs
    first = tl.load(q_starts + segment) + number % runs * run
    stop = tl.minimum(first + run, tl.load(q_starts + segment + 1))
    first_key, last_key = tl.load(k_starts + segment), tl.load(k_starts + segment + 1)
    STRIDE: tl.constexpr = HEADS * WIDTH
    cols, row, key_row = tl.arange(0, WIDTH), tl.arange(0, QUERIES), tl.arange(0, KEYS)
    at = row[:, None] * STRIDE + cols[None, :]
    there = key_row[:, None] * STRIDE + cols[None, :]
    once = tl.cast(head, tl.int64) * tokens
    for begin_key in range(first_key, last_key, KEYS):
        opens, closes = begin_key == first_key, begin_key + KEYS >= last_key
        known = (key_row < last_key - begin_key)[:, None]
        key_place = tl.cast(begin_key, tl.int64) * STRIDE + head * WIDTH
        key = tl.load(k + key_place + there, mask=known, other=0.0)
        value = tl.load(v + key_place + there, mask=known, other=0.0)
        of_key = tl.zeros([KEYS, WIDTH], tl.float32)
        of_value = tl.zeros([KEYS, WIDTH], tl.float32)
        for begin in tl.range(first, stop, QUERIES, num_stages=STAGES):
            held = row < stop - begin
            place = tl.cast(begin, tl.int64) * STRIDE + head * WIDTH
            query = tl.load(q + place + at, mask=held[:, None], other=0.0)
            gradient = tl.load(do + place + at, mask=held[:, None], other=0.0)
            summed = tl.load(lse + once + begin + row, mask=held, other=float("inf"))
            if opens:
                mixed = tl.load(o + place + at, mask=held[:, None], other=0.0)
                delta = tl.sum(mixed.to(tl.float32) * gradient.to(tl.float32), 1)
                if not closes:
                    tl.store(deltas + once + begin + row, delta, mask=held)
            else:
                delta = tl.load(deltas + once + begin + row, mask=held, other=0.0)
            score = tl.dot(key, tl.trans(query)) * (scale * _LOG2_E)  # keys by queries
            weight = tl.exp2(tl.where(known, score - summed[None, :] * _LOG2_E, float("-inf")))
            of_value = tl.dot(weight.to(gradient.dtype), gradient, of_value)
            of_score = weight * (tl.dot(value, tl.trans(gradient)) - delta[None, :])
            of_score = of_score.to(query.dtype)
            of_key = tl.dot(of_score, query, of_key)
            of_query = tl.dot(tl.trans(of_score), key)
            if not opens:
                of_query += tl.load(sums + place + at, mask=held[:, None], other=0.0)
            if closes:
                made = (of_query * scale).to(dq.dtype.element_ty)
                tl.store(dq + place + at, made, mask=held[:, None])
            else:
                tl.store(sums + place + at, of_query, mask=held[:, None])
        if ALONE:
            made = (of_key * scale).to(dk.dtype.element_ty)
            tl.store(dk + key_place + there, made, mask=known)
            tl.store(dv + key_place + there, of_value.to(dv.dtype.element_ty), mask=known)
        elif first < stop:
            tl.atomic_add(dk + key_place + there, of_key * scale, mask=known, sem="relaxed")
            tl.atomic_add(dv + key_place + there, of_value, mask=known, sem="relaxed")
        tl.debug_barrier()  # threads of a program read what others of it have stored
