// Models, vocabularies, adapters and quantization.
#include "guard.h"

#include <climits>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <pthread.h>
#include <vector>

struct llama_model * cllm_model_load(const char * path, const cllm_model_options * o, uintptr_t progress, cllm_error * err) {
    llama_model * model = nullptr;
    guarded(err, true, [&](call & c) {
        struct state {
            uintptr_t progress;
            bool      cancelled;
        } st = {progress, false};

        llama_model_params p          = llama_model_default_params();
        p.n_gpu_layers                = o->gpu_layers;
        p.main_gpu                    = o->main_gpu;
        p.load_mode                   = llama_load_mode(o->load_mode);
        p.vocab_only                  = o->vocab_only;
        p.progress_callback_user_data = &st;
        p.progress_callback           = [](float progress, void * data) {
            state * st    = static_cast<state *>(data);
            st->cancelled = !cllmProgress(st->progress, progress);
            return !st->cancelled;
        };
        model = llama_model_load_from_file(path, p);
        if (!model) {
            c.fail(st.cancelled ? CLLM_CANCELLED : CLLM_FAILED, "llama.cpp gives no reason");
        }
    });
    return model;
}

// The size of a piece can only be asked for by trying.
static void append_piece(const llama_vocab * v, llama_token t, std::string & out) {
    char    buf[256];
    int32_t n = llama_token_to_piece(v, t, buf, sizeof(buf), 0, true);
    if (n >= 0) {
        out.append(buf, size_t(n));
        return;
    }
    std::string big(size_t(-n), 0);
    n = llama_token_to_piece(v, t, &big[0], int32_t(big.size()), 0, true);
    out.append(big, 0, n > 0 ? size_t(n) : 0);
}

bool cllm_vocab_pieces(const struct llama_model * model, cllm_pieces * out, cllm_error * err) {
    *out = {};
    guarded(err, true, [&](call &) {
        const llama_vocab *  v = llama_model_get_vocab(model);
        const int32_t        n = llama_vocab_n_tokens(v);
        std::string          text;
        std::vector<int64_t> offsets(size_t(n) + 1);
        std::vector<uint8_t> end(static_cast<size_t>(n));
        for (int32_t t = 0; t < n; t++) {
            append_piece(v, t, text);
            offsets[size_t(t) + 1] = int64_t(text.size());
            end[size_t(t)]         = llama_vocab_is_eog(v, t);
        }
        out->n       = n;
        out->text    = static_cast<char *>(malloc(text.size() + 1));
        out->offsets = static_cast<int64_t *>(malloc(offsets.size() * sizeof(int64_t)));
        out->end     = static_cast<uint8_t *>(malloc(end.size() + 1));
        if (!out->text || !out->offsets || !out->end) {
            throw std::bad_alloc();
        }
        memcpy(out->text, text.data(), text.size());
        memcpy(out->offsets, offsets.data(), offsets.size() * sizeof(int64_t));
        memcpy(out->end, end.data(), end.size());
    });
    return err->code == CLLM_OK;
}

void cllm_pieces_free(cllm_pieces * p) {
    free(p->text);
    free(p->offsets);
    free(p->end);
    *p = {};
}

namespace {

struct tokenize_args {
    const llama_vocab * vocab;
    const char *        text;
    int32_t             len;
    int32_t *           tokens;
    int32_t             max;
    bool                special;
    cllm_error *        err;
    int32_t             n;
};

void * tokenize(void * data) {
    tokenize_args * a = static_cast<tokenize_args *>(data);
    guarded(a->err, true, [&](call & c) {
        a->n = llama_tokenize(a->vocab, a->text, a->len, a->tokens, a->max, a->special, true);
        if (a->n == INT32_MIN) {
            c.fail(CLLM_FAILED, "the text has more tokens than can be counted");
        }
    });
    if (a->err->code != CLLM_OK) {
        a->n = INT32_MIN;
    }
    return nullptr;
}

} // namespace

int32_t cllm_tokenize(const struct llama_model * model, const char * text, int32_t len, int32_t * tokens, int32_t max,
                      bool special, cllm_error * err) {
    tokenize_args a = {llama_model_get_vocab(model), text, len, tokens, max, special, err, 0};

    // Some vocabularies are cut by std::regex, which recurses for each character
    // of a word and takes up to 330 bytes each time. A long text gets a stack that
    // fits; its pages are taken on use only.
    constexpr int32_t short_text = 4 << 10;
    constexpr size_t  per_byte   = 1 << 10;
    if (len <= short_text) {
        tokenize(&a);
        return a.n;
    }
    pthread_attr_t attr;
    pthread_t      thread;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, size_t(len) * per_byte + (16 << 20));
    const int failed = pthread_create(&thread, &attr, tokenize, &a);
    pthread_attr_destroy(&attr);
    if (failed) {
        guarded(err, true, [](call & c) { c.fail(CLLM_FAILED, "no stack could be had for a text of this size: out of memory"); });
        return INT32_MIN;
    }
    pthread_join(thread, nullptr);
    return a.n;
}

struct llama_adapter_lora * cllm_adapter_load(struct llama_model * model, const char * path, cllm_error * err) {
    llama_adapter_lora * a = nullptr;
    guarded(err, true, [&](call & c) {
        a = llama_adapter_lora_init(model, path);
        if (!a) {
            c.fail(CLLM_FAILED, "llama.cpp gives no reason");
        }
    });
    return a;
}

void cllm_quantize(const char * src, const char * dst, int32_t ftype, int32_t threads, bool requantize, uintptr_t progress,
                   cllm_error * err) {
    guarded(err, true, [&](call & c) {
        c.progress                     = progress;
        llama_model_quantize_params p = llama_model_quantize_default_params();
        p.ftype                       = llama_ftype(ftype);
        p.nthread                     = threads;
        p.allow_requantize            = requantize;
        p.max_buf_size                = 16 << 20; // a tensor of a large model would take gigabytes
        if (llama_model_quantize(src, dst, &p) != 0) {
            c.fail(CLLM_FAILED, "llama.cpp gives no reason");
        }
    });
}
