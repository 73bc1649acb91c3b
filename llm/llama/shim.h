// The C side of package llama: what Go can't call directly, because llama.cpp
// may throw there, or because one call for a whole batch is wanted.
//
// No C++ exception leaves these functions. Those that can fail fill a cllm_error.
#pragma once

#include "llama.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CLLM_OK          = 0,
    CLLM_FAILED      = 1,
    CLLM_CANCELLED   = 2,
    CLLM_UNSUPPORTED = 3,
};

// The outcome of a call. text is the first error that llama.cpp reported in it.
typedef struct {
    int32_t code;
    char    text[1024];
} cllm_error;

// Exported by Go: progress of a load or quantization, 0 to 1. False cancels it.
extern bool cllmProgress(uintptr_t handle, float progress);

// llama.go

void cllm_init(void);
// Takes the oldest log line, cut to size. False when there is none.
bool cllm_log_next(char * text, size_t size, int32_t * level);
// How many lines wait.
int32_t cllm_log_pending(void);

// model.go

typedef struct {
    int32_t gpu_layers;
    int32_t main_gpu;
    int32_t load_mode;
    bool    vocab_only;
} cllm_model_options;

struct llama_model * cllm_model_load(const char * path, const cllm_model_options * o, uintptr_t progress, cllm_error * err);

// vocab.go

// All pieces of a vocabulary: piece t is text[offsets[t]] to text[offsets[t+1]].
typedef struct {
    int32_t   n;
    char    * text;
    int64_t * offsets;
    uint8_t * end; // 1 where the token ends the generation
} cllm_pieces;

bool cllm_vocab_pieces(const struct llama_model * model, cllm_pieces * out, cllm_error * err);
void cllm_pieces_free(cllm_pieces * p);
// The number of tokens, or minus the number that would not fit. INT32_MIN: err says why.
int32_t cllm_tokenize(const struct llama_model * model, const char * text, int32_t len, int32_t * tokens, int32_t max,
                      bool special, cllm_error * err);

// context.go

typedef struct cllm_context cllm_context;

typedef struct {
    uint32_t n_ctx;
    uint32_t n_seq;
    uint32_t n_batch;
    uint32_t n_ubatch;
    uint32_t n_outputs; // rows of a batch that may ask for logits; 0: all
    int32_t  threads;
    int32_t  threads_batch;
    int32_t  poll;
    int32_t  kv_type; // enum ggml_type
    int32_t  flash_attn;
    int32_t  pooling;
    bool     unified;
    bool     embeddings;
} cllm_context_options;

typedef struct {
    uint32_t n_ctx;     // cells in all
    uint32_t n_ctx_seq; // cells a sequence can have
    uint32_t n_batch;
    uint32_t n_ubatch;
    uint32_t n_embd;
    int32_t  pooling;
    int64_t  cell_bytes; // bytes of KV cache per token
    bool     memory;     // keeps a KV cache or another state
    bool     can_shift;
} cllm_context_info;

cllm_context * cllm_context_new(struct llama_model * model, const cllm_context_options * o, cllm_context_info * info, cllm_error * err);
void           cllm_context_free(cllm_context * c);
// Ends the decode in progress, and every later one. From any thread.
void           cllm_context_abort(cllm_context * c);
// Of the last cllm_decode: the logits of each row, NULL where none were asked for.
float **       cllm_logits(cllm_context * c);

// batch.go

// One row of a batch: llm.Row as Go lays it out.
typedef struct {
    int32_t token;
    int32_t pos;
    int32_t seq;
    bool    logits;
} cllm_row;

// llama_decode's code, after waiting for the end of the computation.
int32_t cllm_decode(cllm_context * c, const cllm_row * rows, int32_t n, cllm_error * err);

// embedder.go

// Decodes rows, and takes the embeddings of sequences, or of rows where nothing is
// pooled, into out, width numbers each. Where none are taken, none are computed.
int32_t cllm_embed(cllm_context * c, const cllm_row * rows, int32_t n, const int32_t * take, int32_t n_take, int32_t width,
                   float * out, cllm_error * err);

// memory.go

int32_t cllm_seq_held    (cllm_context * c, int32_t seq);
void    cllm_seq_truncate(cllm_context * c, int32_t seq, int32_t n, cllm_error * err);
void    cllm_seq_shift   (cllm_context * c, int32_t seq, int32_t keep, int32_t discard, cllm_error * err);
// Copies the first n positions, n < 0: all. A cache that is not unified can only
// copy all; the next decode does the work, in the order of the calls.
void    cllm_seq_share   (cllm_context * c, int32_t dst, int32_t src, int32_t n, cllm_error * err);
// Copies a whole sequence to another stream of the cache.
int64_t cllm_state_size  (cllm_context * c, int32_t seq, cllm_error * err);
int64_t cllm_state_get   (cllm_context * c, int32_t seq, void * buf, int64_t size, cllm_error * err);
void    cllm_state_set   (cllm_context * c, int32_t seq, const void * buf, int64_t size, cllm_error * err);

// sample.go

// A token and its logit: llm.Candidate as Go lays it out.
typedef struct {
    int32_t token;
    float   logit;
} cllm_candidate;

// Asks for the k greatest of n logits, into out[offset] and later; k <= 0: all.
typedef struct {
    const float * logits;
    int64_t       offset;
    int32_t       n;
    int32_t       k;
    int32_t       found; // result: how many there are; fewer than k when some logits are NaN
} cllm_selection;

// Sorted by falling logit, ties by rising token. NaN is never selected.
void cllm_select(cllm_selection * s, int32_t count, cllm_candidate * out);
// The same for one row: returns how many were found.
int32_t cllm_select_one(const float * logits, int32_t n, int32_t k, cllm_candidate * out);
// The logarithm of the sum of the exponentials of a row. NaN counts nothing.
double  cllm_logsumexp(const float * logits, int32_t n);

// schema.go

// The grammar of a JSON schema, to be freed; NULL when err says why there is none.
char * cllm_schema_to_grammar(const char * schema, size_t size, size_t * grammar_size, cllm_error * err);

// adapter.go

struct llama_adapter_lora * cllm_adapter_load(struct llama_model * model, const char * path, cllm_error * err);
void cllm_adapters_set(cllm_context * c, struct llama_adapter_lora ** adapters, float * scales, int32_t n, cllm_error * err);

// quantize.go

void cllm_quantize(const char * src, const char * dst, int32_t ftype, int32_t threads, bool requantize, uintptr_t progress,
                   cllm_error * err);

#ifdef __cplusplus
}
#endif
