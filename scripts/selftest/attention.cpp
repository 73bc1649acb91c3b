// What the patch on attention promises: it is what the formula says, for few and many
// queries, whatever a mask hides; a query's result is the same to the last bit, whatever
// stands beside it in the batch and however many threads there are; and what a hidden cell
// holds does not matter, not even if it is no number.
#include "selftest.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <random>

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

namespace {

struct shape {
    int dims, heads, kv_heads, tokens, cells, streams;
};

// Which cells a token sees.
using sees = bool (*)(const shape & s, int stream, int token, int cell);

bool everything(const shape &, int, int, int) { return true; }
bool older(const shape & s, int, int token, int cell) { return cell <= s.cells - s.tokens + token; }
bool shorter(const shape & s, int stream, int, int cell) { return cell < s.cells / (stream + 1); }
bool its_own(const shape & s, int, int token, int cell) { return cell * s.tokens / s.cells == token; }
bool nothing_at_first(const shape &, int, int token, int cell) { return token > 0 && cell % 3 != 0; }

struct freed {
    void operator()(ggml_context * p) const { ggml_free(p); }
    void operator()(ggml_backend * p) const { ggml_backend_free(p); }
};

// compute returns the attention of all tokens of q, whose heads follow each other.
ggml_tensor * compute(ggml_backend * cpu, ggml_context * ctx, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, ggml_tensor * m) {
    const auto    by_heads = [&](ggml_tensor * t) { return ggml_permute(ctx, t, 0, 2, 1, 3); };
    ggml_tensor * out      = ggml_flash_attn_ext(ctx, by_heads(q), by_heads(k), by_heads(v), m, 1 / std::sqrt(float(q->ne[0])), 0, 0);
    ggml_cgraph * graph    = ggml_new_graph(ctx);
    ggml_build_forward_expand(graph, out);
    must(ggml_backend_graph_compute(cpu, graph) == GGML_STATUS_SUCCESS, "attention can't be computed");
    return out;
}

// attend computes one stream's attention of the tokens [first, first + n).
std::vector<float> attend(ggml_backend * cpu, const shape & s, const ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, const ggml_tensor * m,
                          int stream, int first, int n) {
    const ggml_init_params               p{ size_t(16) << 20, nullptr, false };
    std::unique_ptr<ggml_context, freed> owner(ggml_init(p));
    ggml_context *                       ctx = owner.get();

    ggml_tensor * some_q = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, s.dims, s.heads, n);
    ggml_tensor * some_m = ggml_new_tensor_2d(ctx, GGML_TYPE_F16, s.cells, n);
    memcpy(some_q->data, (const char *) q->data + stream * q->nb[3] + first * q->nb[2], ggml_nbytes(some_q));
    memcpy(some_m->data, (const char *) m->data + stream * m->nb[3] + first * m->nb[1], ggml_nbytes(some_m));
    const auto of_stream = [&](ggml_tensor * t) {
        return ggml_view_3d(ctx, t, t->ne[0], t->ne[1], t->ne[2], t->nb[1], t->nb[2], stream * t->nb[3]);
    };
    const ggml_tensor * out = compute(cpu, ctx, some_q, of_stream(k), of_stream(v), some_m);
    return std::vector<float>((float *) out->data, (float *) out->data + ggml_nelements(out));
}

// What was computed together, by stream and token.
struct row_of_tokens {
    const float * data;
    const shape & s;

    const float * at(int stream, int token) const { return data + (stream * s.tokens + token) * s.heads * s.dims; }
};

void alone_as_together(ggml_backend * cpu, const shape & s, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, ggml_tensor * m,
                       const row_of_tokens & together, const char * name) {
    for (int n = 1; n < s.tokens; n = 3 * n + 1) { // few and many
        for (int first = 0; first < s.tokens; first += n) {
            const int                stream = first % s.streams, some = std::min(n, s.tokens - first);
            const std::vector<float> alone = attend(cpu, s, q, k, v, m, stream, first, some);
            must(memcmp(alone.data(), together.at(stream, first), alone.size() * sizeof(float)) == 0,
                 "%s: the tokens from %d on, %d of %d, give something else alone", name, first, some, s.tokens);
        }
    }
}

// Spoils the last cell, for those who do not see it.
void hidden_cells_do_not_matter(ggml_backend * cpu, const shape & s, sees seen, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v,
                                ggml_tensor * m, const row_of_tokens & before, const char * name) {
    for (int stream = 0; stream < s.streams; stream++) {
        for (ggml_tensor * t : { k, v }) {
            ggml_fp16_t * cell = (ggml_fp16_t *) ((char *) t->data + stream * t->nb[3] + (s.cells - 1) * t->nb[2]);
            std::fill(cell, cell + s.kv_heads * s.dims, ggml_fp32_to_fp16(t == k ? NAN : INFINITY));
        }
        const std::vector<float> now = attend(cpu, s, q, k, v, m, stream, 0, s.tokens);
        for (int token = 0; token < s.tokens; token++) {
            const size_t n = (size_t) s.heads * s.dims;
            must(seen(s, stream, token, s.cells - 1) || memcmp(&now[token * n], before.at(stream, token), n * sizeof(float)) == 0,
                 "%s: token %d of stream %d sees what is hidden from it", name, token, stream);
        }
    }
}

void test_shape(ggml_backend * cpu, ggml_backend * one_thread, const shape & s, sees seen, const char * name) {
    const ggml_init_params               p{ size_t(64) << 20, nullptr, false };
    std::unique_ptr<ggml_context, freed> owner(ggml_init(p));
    ggml_context *                       ctx = owner.get();

    std::mt19937                          random(1);
    std::uniform_real_distribution<float> some(-1, 1);
    ggml_tensor * q = ggml_new_tensor_4d(ctx, GGML_TYPE_F32, s.dims, s.heads, s.tokens, s.streams);
    ggml_tensor * k = ggml_new_tensor_4d(ctx, GGML_TYPE_F16, s.dims, s.kv_heads, s.cells, s.streams);
    ggml_tensor * v = ggml_new_tensor_4d(ctx, GGML_TYPE_F16, s.dims, s.kv_heads, s.cells, s.streams);
    ggml_tensor * m = ggml_new_tensor_4d(ctx, GGML_TYPE_F16, s.cells, s.tokens, 1, s.streams);
    float *       qd = (float *) q->data;
    ggml_fp16_t * kd = (ggml_fp16_t *) k->data, * vd = (ggml_fp16_t *) v->data, * md = (ggml_fp16_t *) m->data;
    for (int64_t i = 0; i < ggml_nelements(q); i++) {
        qd[i] = 4 * some(random);
    }
    for (int64_t i = 0; i < ggml_nelements(k); i++) {
        kd[i] = ggml_fp32_to_fp16(some(random));
        vd[i] = ggml_fp32_to_fp16(some(random));
    }
    int64_t at = 0;
    for (int stream = 0; stream < s.streams; stream++) {
        for (int token = 0; token < s.tokens; token++) {
            for (int cell = 0; cell < s.cells; cell++) {
                md[at++] = ggml_fp32_to_fp16(!seen(s, stream, token, cell) ? -INFINITY : cell % 5 == 4 && cell > s.cells / 2 ? -0.5f : 0.f);
            }
        }
    }
    const float   scale = 1 / std::sqrt(float(s.dims));
    const ggml_tensor * out = compute(cpu, ctx, q, k, v, m);

    double              off = 0;
    std::vector<double> weights((size_t) s.cells), want((size_t) s.dims);
    for (int64_t row = 0; row < int64_t(s.streams) * s.tokens * s.heads; row++) {
        const int64_t head = row % s.heads, token = row / s.heads, stream = token / s.tokens; // token counts on from stream to stream
        const auto    of_cell = [&](int cell) { return ((stream * s.cells + cell) * s.kv_heads + head / (s.heads / s.kv_heads)) * s.dims; };
        double        sum = 0;
        std::fill(want.begin(), want.end(), 0.);
        for (int cell = 0; cell < s.cells; cell++) {
            double score = 0;
            for (int d = 0; d < s.dims; d++) {
                score += double(qd[row * s.dims + d]) * double(ggml_fp16_to_fp32(kd[of_cell(cell) + d]));
            }
            const double weight = std::exp(score * double(scale) + double(ggml_fp16_to_fp32(md[token * s.cells + cell])));
            sum += weight;
            for (int d = 0; d < s.dims; d++) {
                want[(size_t) d] += weight * double(ggml_fp16_to_fp32(vd[of_cell(cell) + d]));
            }
        }
        for (int d = 0; d < s.dims; d++) {
            const double e = std::fabs(double(((float *) out->data)[row * s.dims + d]) - (sum == 0 ? 0 : want[(size_t) d] / sum));
            off = e <= off ? off : e; // not a number is off, too
        }
    }
    // The general code sums values in F16.
    const bool ours = s.dims <= 256 && ggml_cpu_has_avx2() && ggml_cpu_has_fma() && ggml_cpu_has_f16c();
    must(off < (ours ? 1e-5 : 1e-2), "%s: %d tokens of %d heads of %d, %d of the cache, %d cells, %d streams: off by %g", name, s.tokens, s.heads, s.dims,
         s.kv_heads, s.cells, s.streams, off);
    if (ours) {
        const row_of_tokens row{ (const float *) out->data, s };
        alone_as_together(one_thread, s, q, k, v, m, row, name);
        hidden_cells_do_not_matter(cpu, s, seen, q, k, v, m, row, name);
    }
    printf("attention: %s, %d tokens, %d heads of %d, %d cells, %d streams: off by %.1e\n", name, s.tokens, s.heads, s.dims, s.cells, s.streams,
           off);
}

} // namespace

void test_attention() {
    std::unique_ptr<ggml_backend, freed> cpu(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    std::unique_ptr<ggml_backend, freed> one_thread(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    ggml_backend_cpu_set_n_threads(one_thread.get(), 1);
    const auto test = [&](const shape & s, sees seen, const char * name) { test_shape(cpu.get(), one_thread.get(), s, seen, name); };
    for (const int threads : { 1, 2, 3 }) {
        ggml_backend_cpu_set_n_threads(cpu.get(), threads);
        printf("attention: %d threads\n", threads);
        test({ 128, 16, 8, 1, 1, 1 }, everything, "everything");
        test({ 128, 16, 8, 1, 256, 5 }, shorter, "shorter");
        test({ 128, 16, 8, 4, 83, 3 }, older, "older");
        test({ 64, 14, 2, 1, 600, 2 }, older, "older");
        test({ 128, 16, 8, 70, 256, 1 }, older, "older");
        test({ 64, 32, 8, 5, 77, 2 }, older, "older");
        test({ 96, 6, 6, 33, 65, 2 }, nothing_at_first, "nothing at first");
        test({ 80, 8, 8, 2, 40, 1 }, nothing_at_first, "nothing at first");
        test({ 256, 8, 1, 9, 97, 1 }, older, "older");
        test({ 128, 16, 8, 32, 2048, 1 }, its_own, "its own");
        test({ 32, 4, 4, 20, 512, 2 }, shorter, "shorter");
        test({ 576, 4, 1, 3, 64, 1 }, older, "older");
    }
}
