// Contexts: decoding, memory and state.
#include "guard.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

struct cllm_context {
    llama_model *        model = nullptr;
    llama_context *      ctx   = nullptr;
    llama_batch          batch = {};
    ggml_threadpool_t    pool       = nullptr; // of decodes with one row
    ggml_threadpool_t    pool_batch = nullptr; // of all others; may be the same
    std::atomic<bool>    aborted{false};
    bool                 embeddings = false;
    std::vector<float *> logits; // by row

    ~cllm_context() {
        if (ctx) {
            llama_free(ctx);
        }
        if (pool_batch && pool_batch != pool) {
            ggml_threadpool_free(pool_batch);
        }
        if (pool) {
            ggml_threadpool_free(pool);
        }
        if (batch.token) {
            llama_batch_free(batch);
        }
    }

    llama_memory_t memory() const { return llama_get_memory(ctx); }
};

namespace {

ggml_threadpool_t new_pool(int32_t threads, int32_t poll) {
    ggml_threadpool_params p = ggml_threadpool_params_default(threads);
    p.poll                   = uint32_t(poll);
    ggml_threadpool_t pool   = ggml_threadpool_new(&p);
    if (!pool) {
        throw std::runtime_error("the threads of the computation can't be started");
    }
    return pool;
}

llama_context_params context_params(cllm_context * c, const cllm_context_options * o) {
    llama_context_params p = llama_context_default_params();
    p.n_ctx                = o->n_ctx;
    p.n_seq_max            = o->n_seq;
    p.n_batch              = o->n_batch;
    p.n_ubatch             = o->n_ubatch;
    p.n_outputs_max        = o->n_outputs;
    p.n_threads            = o->threads;
    p.n_threads_batch      = o->threads_batch;
    p.type_k               = ggml_type(o->kv_type);
    p.type_v               = ggml_type(o->kv_type);
    p.flash_attn_type      = llama_flash_attn_type(o->flash_attn);
    p.pooling_type         = static_cast<enum llama_pooling_type>(o->pooling);
    p.kv_unified           = o->unified;
    p.embeddings           = o->embeddings;
    p.abort_callback_data  = c;
    p.abort_callback       = [](void * data) {
        return static_cast<cllm_context *>(data)->aborted.load(std::memory_order_relaxed);
    };
    return p;
}

void set_row(cllm_context * c, int32_t i, const cllm_row & row) {
    c->batch.token[i]     = row.token;
    c->batch.pos[i]       = row.pos;
    c->batch.n_seq_id[i]  = 1;
    c->batch.seq_id[i][0] = row.seq;
    c->batch.logits[i]    = row.logits || c->embeddings;
}

// Decodes two tokens and looks how much a saved sequence grew: this holds for
// every architecture, which a formula over the metadata does not. It is also the
// proof that the context works.
int64_t measure_cell(cllm_context * c) {
    // What the state format adds to a cell: position, number of ids, id.
    constexpr int64_t per_cell = 3 * sizeof(int32_t);

    int64_t size[2] = {};
    for (int32_t i = 0; i < 2; i++) {
        set_row(c, 0, {0, i, 0, false});
        c->batch.n_tokens  = 1;
        const int32_t code = llama_decode(c->ctx, c->batch);
        llama_synchronize(c->ctx);
        if (code != 0) {
            throw std::runtime_error("the first decode failed with code " + std::to_string(code));
        }
        size[i] = int64_t(llama_state_seq_get_size(c->ctx, 0));
    }
    llama_memory_seq_rm(c->memory(), 0, -1, -1);
    return std::max<int64_t>(0, size[1] - size[0] - per_cell);
}

} // namespace

cllm_context * cllm_context_new(struct llama_model * model, const cllm_context_options * o, cllm_context_info * info,
                                cllm_error * err) {
    std::unique_ptr<cllm_context> c;
    guarded(err, true, [&](call & call) {
        c.reset(new cllm_context);
        c->model      = model;
        c->embeddings = o->embeddings;
        c->ctx        = llama_init_from_model(model, context_params(c.get(), o));
        if (!c->ctx) {
            call.fail(CLLM_FAILED, "llama.cpp gives no reason");
            return;
        }
        c->pool_batch = new_pool(o->threads_batch, o->poll);
        c->pool       = o->threads == o->threads_batch ? c->pool_batch : new_pool(o->threads, o->poll);
        llama_attach_threadpool(c->ctx, c->pool, c->pool_batch);

        const int32_t n_batch = int32_t(llama_n_batch(c->ctx));
        c->batch              = llama_batch_init(n_batch, 0, 1);
        c->logits.resize(size_t(n_batch));

        info->n_ctx     = llama_n_ctx(c->ctx);
        info->n_ctx_seq = llama_n_ctx_seq(c->ctx);
        info->n_batch   = uint32_t(n_batch);
        info->n_ubatch  = llama_n_ubatch(c->ctx);
        info->pooling   = llama_pooling_type(c->ctx);
        info->n_embd    = info->pooling == LLAMA_POOLING_TYPE_RANK ? llama_model_n_cls_out(model) :
                                                                     uint32_t(llama_model_n_embd_out(model));
        info->memory    = c->memory() != nullptr;
        info->can_shift = info->memory && llama_memory_can_shift(c->memory());
    });
    if (err->code == CLLM_OK && info->memory) {
        guarded(err, false, [&](call &) { info->cell_bytes = measure_cell(c.get()); });
    }
    return err->code == CLLM_OK ? c.release() : nullptr;
}

void cllm_context_free(cllm_context * c) {
    delete c;
}

void cllm_context_abort(cllm_context * c) {
    c->aborted = true;
}

float ** cllm_logits(cllm_context * c) {
    return c->logits.data();
}

int32_t cllm_decode(cllm_context * c, const cllm_row * rows, int32_t n, cllm_error * err) {
    int32_t code = INT32_MIN;
    guarded(err, false, [&](call & call) {
        for (int32_t i = 0; i < n; i++) {
            set_row(c, i, rows[i]);
        }
        c->batch.n_tokens = n;
        code              = llama_decode(c->ctx, c->batch);
        llama_synchronize(c->ctx);
        if (code != 0) {
            call.fail(CLLM_FAILED, "");
            return;
        }
        for (int32_t i = 0; i < n; i++) {
            c->logits[size_t(i)] = rows[i].logits && !c->embeddings ? llama_get_logits_ith(c->ctx, i) : nullptr;
        }
    });
    return code;
}

int32_t cllm_embed(cllm_context * c, const cllm_row * rows, int32_t n, const int32_t * take, int32_t n_take, int32_t width,
                   float * out, cllm_error * err) {
    // With embeddings llama.cpp takes every row for an output, and computes its logits.
    c->embeddings = n_take > 0;
    llama_set_embeddings(c->ctx, c->embeddings);
    const int32_t code = cllm_decode(c, rows, n, err);
    if (code != 0 || n_take == 0) {
        return code;
    }
    guarded(err, true, [&](call & call) {
        const bool pooled = llama_pooling_type(c->ctx) != LLAMA_POOLING_TYPE_NONE;
        for (int32_t i = 0; i < n_take; i++) {
            const float * e = pooled ? llama_get_embeddings_seq(c->ctx, take[i]) : llama_get_embeddings_ith(c->ctx, take[i]);
            if (!e) {
                call.fail(CLLM_UNSUPPORTED, "the model gives no embedding");
                return;
            }
            std::copy_n(e, width, out + int64_t(i) * width);
        }
    });
    return code;
}

int32_t cllm_seq_held(cllm_context * c, int32_t seq) {
    return c->memory() ? llama_memory_seq_pos_max(c->memory(), seq) + 1 : 0;
}

// A cache with a sliding window drops what is behind it. After a truncation the
// window lies further back, and what it needs may be gone.
static bool window_lost(cllm_context * c, int32_t seq, int32_t n) {
    const int32_t window = llama_model_n_swa(c->model);
    return window > 0 && llama_memory_seq_pos_min(c->memory(), seq) > std::max(0, n - window);
}

void cllm_seq_truncate(cllm_context * c, int32_t seq, int32_t n, cllm_error * err) {
    guarded(err, true, [&](call & call) {
        if (!c->memory()) {
            return;
        }
        if (n <= 0) {
            llama_memory_seq_rm(c->memory(), seq, -1, -1);
            return;
        }
        if (n >= cllm_seq_held(c, seq)) {
            return;
        }
        if (window_lost(c, seq, n) || !llama_memory_seq_rm(c->memory(), seq, n, -1)) {
            call.fail(CLLM_UNSUPPORTED, "");
        }
    });
}

void cllm_seq_shift(cllm_context * c, int32_t seq, int32_t keep, int32_t discard, cllm_error * err) {
    guarded(err, true, [&](call & call) {
        if (!c->memory() || !llama_memory_can_shift(c->memory()) ||
            !llama_memory_seq_rm(c->memory(), seq, keep, keep + discard)) {
            call.fail(CLLM_UNSUPPORTED, "");
            return;
        }
        llama_memory_seq_add(c->memory(), seq, keep + discard, -1, -discard);
    });
}

void cllm_seq_share(cllm_context * c, int32_t dst, int32_t src, int32_t n, cllm_error * err) {
    guarded(err, true, [&](call &) { llama_memory_seq_cp(c->memory(), src, dst, n < 0 ? -1 : 0, n); });
}

int64_t cllm_state_size(cllm_context * c, int32_t seq, cllm_error * err) {
    int64_t n = 0;
    guarded(err, true, [&](call & call) {
        n = int64_t(llama_state_seq_get_size(c->ctx, seq));
        if (n == 0) {
            call.fail(CLLM_FAILED, "llama.cpp gives no reason");
        }
    });
    return n;
}

int64_t cllm_state_get(cllm_context * c, int32_t seq, void * buf, int64_t size, cllm_error * err) {
    int64_t n = 0;
    guarded(err, true, [&](call & call) {
        n = int64_t(llama_state_seq_get_data(c->ctx, static_cast<uint8_t *>(buf), size_t(size), seq));
        if (n == 0) {
            call.fail(CLLM_FAILED, "llama.cpp gives no reason");
        }
    });
    return n;
}

void cllm_state_set(cllm_context * c, int32_t seq, const void * buf, int64_t size, cllm_error * err) {
    guarded(err, true, [&](call & call) {
        llama_memory_seq_rm(c->memory(), seq, -1, -1);
        if (llama_state_seq_set_data(c->ctx, static_cast<const uint8_t *>(buf), size_t(size), seq) == 0) {
            call.fail(CLLM_FAILED, "llama.cpp gives no reason");
        }
    });
    if (err->code != CLLM_OK) {
        llama_memory_seq_rm(c->memory(), seq, -1, -1);
    }
}

void cllm_adapters_set(cllm_context * c, struct llama_adapter_lora ** adapters, float * scales, int32_t n, cllm_error * err) {
    guarded(err, true, [&](call & call) {
        if (llama_set_adapters_lora(c->ctx, adapters, size_t(n), scales) != 0) {
            call.fail(CLLM_FAILED, "llama.cpp gives no reason");
        }
    });
}
