// What the patches promise: a cache as large as one likes costs what is in use,
// gives it back when that shrinks, and answers as a cache that never did.
#include <algorithm>
#include <chrono>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"
#include "selftest.h"

namespace {

constexpr uint32_t n_seq = 64;
constexpr uint32_t n_ctx = 40960;
constexpr size_t   MiB   = 1 << 20;

llama_token token(uint32_t seed, uint32_t pos) {
    return (llama_token) ((seed * 97 + pos * pos * 3 + pos * 5 + 1) % tiny_model::n_vocab);
}

// fill decodes the tokens of seed at [first, last) of a sequence and returns
// the logits of the last one.
std::vector<float> fill(llama_context * ctx, llama_seq_id seq, uint32_t seed, uint32_t first, uint32_t last,
                        llama_pos shift = 0) {
    std::vector<float> logits;
    while (first < last) {
        std::vector<row> rows;
        for (uint32_t n = std::min(last - first, 512u); n > 0; n--, first++) {
            rows.push_back({ token(seed, first), (llama_pos) first + shift, seq });
        }
        logits = decode(ctx, rows).back();
    }
    return logits;
}

void same(const std::vector<float> & got, const std::vector<float> & want, const char * what) {
    const double c = cosine(got, want);
    must(c > 0.999, "%s: logits agree only to %.5f", what, c);
}

void differ(const std::vector<float> & a, const std::vector<float> & b, const char * what) {
    must(cosine(a, b) < 0.999, "%s: logits are the same, so the test sees nothing", what);
}

// A tensor row of keys and one of values, two bytes an element, in each layer.
size_t cell_bytes(const llama_model * model) {
    const size_t n_kv = (size_t) llama_model_n_embd(model) / llama_model_n_head(model) * llama_model_n_head_kv(model);
    return n_kv * 2 * 2 * tiny_model::n_layer;
}

bool all(const std::vector<uint8_t> & bytes, size_t first, size_t last, uint8_t value) {
    return std::all_of(bytes.begin() + first, bytes.begin() + last, [&](uint8_t b) { return b == value; });
}

void sparse_buffer() {
    const size_t          size = 64 * MiB;
    ggml_init_params      params { ggml_tensor_overhead(), nullptr, true };
    ggml_context *        ctx = ggml_init(params);
    ggml_tensor *         t   = ggml_new_tensor_1d(ctx, GGML_TYPE_I8, size);
    ggml_backend_buffer_t buf = ggml_backend_alloc_ctx_tensors_from_buft(ctx, ggml_backend_cpu_sparse_buffer_type());
    std::vector<uint8_t>  bytes(size);
    const auto            read = [&] { ggml_backend_tensor_get(t, bytes.data(), 0, size); };

    const size_t empty = resident();
    ggml_backend_buffer_clear(buf, 7);
    must(resident() > empty + size / 2, "a written buffer is not resident");
    read();
    must(all(bytes, 0, size, 7), "a buffer cleared to 7 holds something else");

    // Whole pages go, their neighbours stay.
    must(ggml_backend_cpu_sparse_buffer_drop(buf, (char *) t->data + 100, 32 * MiB), "nothing was dropped");
    must(resident() < empty + size * 3 / 4, "a dropped part is still resident");
    read();
    must(all(bytes, 0, 100, 7) && all(bytes, 32 * MiB + 100, size, 7), "more was dropped than asked");
    must(all(bytes, 65536, 32 * MiB - 65536, 0), "a dropped part is not zero");
    must(!ggml_backend_cpu_sparse_buffer_drop(buf, (char *) t->data + 32 * MiB + 100, 100), "less than a page was dropped");

    ggml_backend_buffer_clear(buf, 7);
    ggml_backend_buffer_clear(buf, 0);
    must(resident() < empty + size / 4, "a buffer cleared to zero is still resident");
    read();
    must(all(bytes, 0, size, 0), "a buffer cleared to zero holds something else");
    ggml_backend_buffer_clear(buf, 0); // some systems count what was read, too

    // What is made ready is resident; of what was given back only what is written again.
    ggml_backend_cpu_sparse_buffer_fill(buf, (char *) t->data + 100, 33 * MiB);
    must(resident() > empty + 32 * MiB && resident() < empty + 36 * MiB, "33 MiB made ready are %zu MiB resident", (resident() - empty) / MiB);
    read();
    must(all(bytes, 0, size, 0), "what was made ready is not zero");
    ggml_backend_cpu_sparse_buffer_drop(buf, t->data, size);
    for (size_t i = 0; i < size; i += 2 * MiB) {
        const char byte = 7;
        ggml_backend_tensor_set(t, &byte, i, 1);
    }
    must(resident() < empty + 4 * MiB, "32 written bytes made %zu MiB resident", (resident() - empty) / MiB);
    ggml_backend_buffer_free(buf);

    ggml_backend_buffer_t plain = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), 1 * MiB);
    must(!ggml_backend_cpu_sparse_buffer_drop(plain, ggml_backend_buffer_get_base(plain), 1 * MiB), "an ordinary buffer was dropped");
    ggml_backend_buffer_free(plain);
    ggml_free(ctx);
}

void costs_what_is_in_use(const tiny_model & tiny) {
    using clock        = std::chrono::steady_clock;
    const auto    begin  = clock::now();
    const size_t  before = resident();
    llama_context * ctx  = make_context(tiny.model, n_seq, n_ctx, true);
    const double seconds = std::chrono::duration<double>(clock::now() - begin).count();
    const size_t empty   = resident();
    must(seconds < 1, "a context of %u times %u tokens took %.2f s", n_seq, n_ctx, seconds);
    must(empty < before + 600 * MiB, "an empty context has %zu MiB resident", (empty - before) / MiB);

    std::vector<row> rows;
    for (uint32_t s = 0; s < n_seq; s++) {
        rows.push_back({ token(s, 0), 0, (llama_seq_id) s });
    }
    decode(ctx, rows);
    must(resident() < empty + 64 * MiB, "one token in each sequence made %zu MiB resident", (resident() - empty) / MiB);
    printf("kvcache: %u sequences of %u tokens: ready in %.3f s, %zu MiB resident of %zu MiB\n", n_seq, n_ctx, seconds,
           (resident() - before) / MiB, cell_bytes(tiny.model) * n_seq * n_ctx / MiB);
    llama_free(ctx);
}

void follows_what_is_in_use(const tiny_model & tiny) {
    constexpr uint32_t n   = 1500;
    llama_context *    ctx = make_context(tiny.model, n_seq, n_ctx, true);
    llama_memory_t     mem = llama_get_memory(ctx);

    fill(ctx, 0, 1, 0, n); // the compute buffers are resident from here on
    llama_memory_clear(mem, true);
    const size_t empty = resident();
    const auto   holds = [&](uint32_t sequences, const char * when) {
        const size_t in_use = sequences * n * cell_bytes(tiny.model), is = resident() - std::min(empty, resident());
        must(is + 4 * MiB > in_use && is < in_use + in_use / 10 + 4 * MiB, "%s %u sequences of %u tokens: %zu KiB are resident, in use are %zu",
             when, sequences, n, is / 1024, in_use / 1024);
    };
    for (uint32_t s = 0; s < 8; s++) {
        fill(ctx, (llama_seq_id) (9 * s), s, 0, n);
        holds(s + 1, "with");
    }
    for (uint32_t s = 0; s < 8; s++) {
        llama_memory_seq_rm(mem, (llama_seq_id) (9 * s), -1, -1);
        llama_memory_seq_rm(mem, (llama_seq_id) (9 * s), -1, -1);
        holds(7 - s, "again with");
    }
    llama_free(ctx);
}

// What is removed may be needed again soon; what is removed twice is not.
void gives_back_all_when_removed_twice(const tiny_model & tiny) {
    constexpr uint32_t seqs = 4, n = 250;
    llama_context *    ctx  = make_context(tiny.model, seqs, n_ctx, true);
    llama_memory_t     mem  = llama_get_memory(ctx);
    const size_t       size = seqs * n * cell_bytes(tiny.model);

    for (uint32_t s = 0; s < seqs; s++) {
        fill(ctx, (llama_seq_id) s, s, 0, n);
    }
    llama_memory_clear(mem, true);
    const size_t empty = resident();
    for (uint32_t s = 0; s < seqs; s++) {
        fill(ctx, (llama_seq_id) s, s, 0, n);
    }
    must(resident() > empty + size / 2, "%u tokens are not resident, so the test sees nothing", seqs * n);
    for (llama_seq_id s = 0; s < (llama_seq_id) seqs; s++) {
        llama_memory_seq_rm(mem, s, -1, -1);
    }
    must(resident() > empty + size / 2, "the memory of %u tokens went at once", n);
    for (llama_seq_id s = 0; s < (llama_seq_id) seqs; s++) {
        llama_memory_seq_rm(mem, s, -1, -1);
    }
    must(resident() < empty + size / 4, "%zu KiB of %zu are left of sequences that were removed twice", (resident() - empty) / 1024, size / 1024);
    llama_free(ctx);
}

void gives_back_what_is_removed(const tiny_model & tiny, bool flash_attn) {
    llama_context * ctx  = make_context(tiny.model, 4, n_ctx, flash_attn);
    llama_memory_t  mem  = llama_get_memory(ctx);
    const uint32_t  n    = 1536;
    const size_t    size = n * cell_bytes(tiny.model);

    fill(ctx, 0, 1, 0, n); // the compute buffers are resident from here on
    llama_memory_clear(mem, true);
    const size_t empty = resident();
    const auto   head  = fill(ctx, 0, 1, 0, 100);
    const auto   next  = fill(ctx, 0, 1, 100, 101);
    fill(ctx, 0, 1, 101, n);
    must(resident() > empty + size / 2, "%u tokens are not resident, so the test sees nothing", n);

    // Transposed values, which go without flash attention, keep their memory
    // until the sequence is empty.
    must(llama_memory_seq_rm(mem, 0, 100, -1), "the tail was not removed");
    must(!flash_attn || resident() < empty + size / 4, "removing a tail gave nothing back");
    same(fill(ctx, 0, 1, 100, 101), next, "after a tail was removed");
    fill(ctx, 0, 1, 101, n);
    llama_memory_seq_rm(mem, 0, -1, -1);
    must(resident() < empty + size / 4, "removing a sequence gave nothing back");
    same(fill(ctx, 0, 1, 0, 100), head, "after a sequence was removed");

    fill(ctx, 0, 1, 100, n);
    llama_memory_clear(mem, true);
    must(resident() < empty + size / 4, "clearing the cache gave nothing back");
    same(fill(ctx, 0, 1, 0, 100), head, "after the cache was cleared");
    llama_free(ctx);
}

void copies_what_was_there(const tiny_model & tiny, bool flash_attn) {
    llama_context * ctx = make_context(tiny.model, 4, n_ctx, flash_attn);
    llama_memory_t  mem = llama_get_memory(ctx);
    const uint32_t  n   = 1200;

    fill(ctx, 0, 1, 0, n);
    fill(ctx, 1, 2, 0, n / 2);
    const auto want = fill(ctx, 0, 1, n, n + 1);
    differ(want, fill(ctx, 1, 1, n / 2, n / 2 + 1), "two sequences");
    llama_memory_seq_rm(mem, 0, n, -1);

    // The copies are made at the next decode; their sources are gone by then.
    const size_t before = resident();
    llama_memory_seq_cp(mem, 0, 1, -1, -1);
    llama_memory_seq_rm(mem, 0, -1, -1);
    llama_memory_seq_cp(mem, 1, 2, -1, -1);
    llama_memory_seq_rm(mem, 1, -1, -1);
    same(fill(ctx, 2, 1, n, n + 1), want, "after two copies in a row");
    if (flash_attn) {
        must(resident() < before + n * cell_bytes(tiny.model) / 2, "copied sequences are still resident");
    }
    must(llama_memory_seq_pos_max(mem, 0) == -1 && llama_memory_seq_pos_max(mem, 1) == -1, "a source is not empty");
    llama_free(ctx);
}

void shifts_what_is_in_use(const tiny_model & tiny, bool flash_attn) {
    llama_context * ctx   = make_context(tiny.model, n_seq, n_ctx, flash_attn);
    llama_memory_t  mem   = llama_get_memory(ctx);
    const uint32_t  n     = 64;
    const llama_pos shift = 500;

    for (llama_seq_id s : { 0, 7, 63 }) {
        fill(ctx, s, s, 0, n);
    }
    std::vector<std::vector<float>> want;
    for (llama_seq_id s : { 0, 7, 63 }) {
        want.push_back(fill(ctx, s, s, n, n + 1));
        llama_memory_seq_rm(mem, s, n, -1);
    }
    // Attention sees distances: a shift of a whole sequence changes nothing.
    const size_t before = resident();
    llama_memory_seq_add(mem, 0, -1, -1, shift);
    llama_memory_seq_add(mem, 63, -1, -1, shift);
    llama_memory_seq_add(mem, 5, -1, -1, shift); // holds nothing
    same(fill(ctx, 0, 0, n, n + 1, shift), want[0], "after a shift of the first sequence");
    same(fill(ctx, 63, 63, n, n + 1, shift), want[2], "after a shift of the last sequence");
    same(fill(ctx, 7, 7, n, n + 1), want[1], "beside a shift");
    llama_memory_seq_rm(mem, 0, n + shift, -1);
    llama_memory_seq_add(mem, 0, n / 2 + shift, -1, shift);
    differ(fill(ctx, 0, 0, n, n + 1, 2 * shift), want[0], "after a shift of the second half");
    must(resident() < before + 64 * MiB, "a shift made %zu MiB resident", (resident() - before) / MiB);
    llama_free(ctx);
}

} // namespace

void test_kvcache() {
    sparse_buffer();
    tiny_model tiny;
    gives_back_all_when_removed_twice(tiny);
    costs_what_is_in_use(tiny);
    follows_what_is_in_use(tiny);
    for (bool flash_attn : { true, false }) {
        gives_back_what_is_removed(tiny, flash_attn);
        copies_what_was_there(tiny, flash_attn);
        shifts_what_is_in_use(tiny, flash_attn);
    }
}
