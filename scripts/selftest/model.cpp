#include <unistd.h>

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "ggml.h"
#include "gguf.h"
#include "selftest.h"

namespace {

constexpr int n_embd    = 512; // multiples of 256: k-quants and the CPU's matrix units take these
constexpr int n_ff      = 1024;
constexpr int n_head    = 8;
constexpr int n_head_kv = 8;
constexpr int n_ctx_max = 40960;

// writer collects random tensors and writes them as one GGUF file.
class writer {
  public:
    writer() : gguf(gguf_init_empty()), ctx(ggml_init({ 64u << 20, nullptr, false })), random(1) {}

    ~writer() {
        ggml_free(ctx);
        gguf_free(gguf);
    }

    void weight(const std::string & name, ggml_type type, int64_t n_in, int64_t n_out) {
        std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt((float) n_in));
        std::vector<float>              data(n_in * n_out);
        for (float & x : data) {
            x = normal(random);
        }
        ggml_tensor * t = ggml_new_tensor_2d(ctx, type, n_in, n_out);
        if (type == GGML_TYPE_F32) {
            memcpy(t->data, data.data(), ggml_nbytes(t));
        } else {
            ggml_quantize_chunk(type, data.data(), t->data, 0, n_out, n_in, nullptr);
        }
        add(t, name);
    }

    void ones(const std::string & name, int64_t n) {
        ggml_tensor * t = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, n);
        std::vector<float> data(n, 1.0f);
        memcpy(t->data, data.data(), ggml_nbytes(t));
        add(t, name);
    }

    gguf_context * gguf;

  private:
    void add(ggml_tensor * t, const std::string & name) {
        ggml_set_name(t, name.c_str());
        gguf_add_tensor(gguf, t);
    }

    ggml_context * ctx;
    std::mt19937   random;
};

void write_model(const char * path) {
    writer         w;
    gguf_context * g = w.gguf;

    gguf_set_val_str(g, "general.architecture", "llama");
    gguf_set_val_str(g, "tokenizer.ggml.model", "no_vocab");
    gguf_set_val_u32(g, "llama.vocab_size", tiny_model::n_vocab);
    gguf_set_val_u32(g, "llama.context_length", n_ctx_max);
    gguf_set_val_u32(g, "llama.embedding_length", n_embd);
    gguf_set_val_u32(g, "llama.feed_forward_length", n_ff);
    gguf_set_val_u32(g, "llama.block_count", tiny_model::n_layer);
    gguf_set_val_u32(g, "llama.attention.head_count", n_head);
    gguf_set_val_u32(g, "llama.attention.head_count_kv", n_head_kv);
    gguf_set_val_u32(g, "llama.rope.dimension_count", n_embd / n_head);
    gguf_set_val_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-6f);

    // Every type that real models mix, each in a matrix of its own.
    const int n_kv = n_embd / n_head * n_head_kv;
    w.weight("token_embd.weight", GGML_TYPE_Q8_0, n_embd, tiny_model::n_vocab);
    w.weight("output.weight", GGML_TYPE_Q6_K, n_embd, tiny_model::n_vocab);
    w.ones("output_norm.weight", n_embd);
    for (uint32_t i = 0; i < tiny_model::n_layer; i++) {
        const std::string blk = "blk." + std::to_string(i) + ".";
        w.ones(blk + "attn_norm.weight", n_embd);
        w.ones(blk + "ffn_norm.weight", n_embd);
        w.weight(blk + "attn_q.weight", GGML_TYPE_Q4_K, n_embd, n_embd);
        w.weight(blk + "attn_k.weight", GGML_TYPE_Q4_0, n_embd, n_kv);
        w.weight(blk + "attn_v.weight", GGML_TYPE_Q5_K, n_embd, n_kv);
        w.weight(blk + "attn_output.weight", GGML_TYPE_Q4_1, n_embd, n_embd);
        w.weight(blk + "ffn_gate.weight", GGML_TYPE_Q4_K, n_embd, n_ff);
        w.weight(blk + "ffn_up.weight", GGML_TYPE_Q8_0, n_embd, n_ff);
        w.weight(blk + "ffn_down.weight", GGML_TYPE_F16, n_ff, n_embd);
    }
    must(gguf_write_to_file(g, path, false), "the model file %s cannot be written", path);
}

} // namespace

tiny_model::tiny_model() {
    const char * dir = getenv("TMPDIR");
    path             = std::string(dir && *dir ? dir : "/tmp") + "/cllm-selftest-XXXXXX";
    const int fd     = mkstemp(&path[0]);
    must(fd >= 0, "no file can be made at %s", path.c_str());
    close(fd);
    write_model(path.c_str());

    // The defaults let the weights take the layout that the CPU's matrix units want.
    model = llama_model_load_from_file(path.c_str(), llama_model_default_params());
    unlink(path.c_str());
    must(model != nullptr, "the model does not load");
}

tiny_model::~tiny_model() {
    llama_model_free(model);
}

llama_context * make_context(llama_model * model, uint32_t n_seq, uint32_t n_ctx, bool flash_attn) {
    llama_context_params params = llama_context_default_params();
    params.n_seq_max            = n_seq;
    params.n_ctx                = n_seq * n_ctx;
    params.n_batch              = 512;
    params.n_ubatch             = 512;
    params.kv_unified           = false;
    params.flash_attn_type      = flash_attn ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.n_threads            = 2;
    params.n_threads_batch      = 2;
    llama_context * ctx         = llama_init_from_model(model, params);
    must(ctx != nullptr, "no context of %u times %u tokens", n_seq, n_ctx);
    return ctx;
}

void submit(llama_context * ctx, const std::vector<row> & rows) {
    llama_batch batch = llama_batch_init((int32_t) rows.size(), 0, 1);
    for (size_t i = 0; i < rows.size(); i++) {
        batch.token[i]     = rows[i].token;
        batch.pos[i]       = rows[i].pos;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = rows[i].seq;
        batch.logits[i]    = true;
    }
    batch.n_tokens    = (int32_t) rows.size();
    const int32_t ret = llama_decode(ctx, batch);
    must(ret == 0, "llama_decode of %zu rows returned %d", rows.size(), ret);
    llama_batch_free(batch);
}

std::vector<std::vector<float>> decode(llama_context * ctx, const std::vector<row> & rows) {
    submit(ctx, rows);
    std::vector<std::vector<float>> logits;
    for (size_t i = 0; i < rows.size(); i++) {
        const float * p = llama_get_logits_ith(ctx, (int32_t) i);
        must(p != nullptr, "row %zu has no logits", i);
        logits.emplace_back(p, p + tiny_model::n_vocab);
    }
    return logits;
}

double cosine(const std::vector<float> & a, const std::vector<float> & b) {
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < a.size(); i++) {
        ab += (double) a[i] * b[i];
        aa += (double) a[i] * a[i];
        bb += (double) b[i] * b[i];
    }
    return ab / std::sqrt(aa * bb);
}

size_t resident() {
    size_t pages = 0;
    if (FILE * f = fopen("/proc/self/statm", "r")) {
        if (fscanf(f, "%*s %zu", &pages) != 1) {
            pages = 0;
        }
        fclose(f);
    }
    return pages * (size_t) sysconf(_SC_PAGESIZE);
}

void must(bool holds, const char * what, ...) {
    if (holds) {
        return;
    }
    va_list args;
    va_start(args, what);
    fprintf(stderr, "self-test: ");
    vfprintf(stderr, what, args);
    fprintf(stderr, "\n");
    va_end(args);
    _exit(1);
}
