// The self-test of a llama.cpp build: a tiny random model, made on the spot,
// and the decodes that must work before the build is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "llama.h"

// A model of random weights in a file that goes away with it.
class tiny_model {
  public:
    tiny_model();
    ~tiny_model();
    tiny_model(const tiny_model &) = delete;

    static constexpr uint32_t n_vocab = 512;
    static constexpr uint32_t n_layer = 2;

    llama_model * model = nullptr;

  private:
    std::string path;
};

// One row of a batch. Every row asks for its logits.
struct row {
    llama_token  token;
    llama_pos    pos;
    llama_seq_id seq;
};

// A context of n_seq sequences of n_ctx tokens each, in split mode.
llama_context * make_context(llama_model * model, uint32_t n_seq, uint32_t n_ctx, bool flash_attn);

// Decodes the rows in one batch.
void submit(llama_context * ctx, const std::vector<row> & rows);

// Decodes the rows in one batch and returns their logits, one vector a row.
std::vector<std::vector<float>> decode(llama_context * ctx, const std::vector<row> & rows);

// The cosine of the angle between two logit rows.
double cosine(const std::vector<float> & a, const std::vector<float> & b);

// The process's resident memory in bytes.
size_t resident();

// Ends the program with a sentence if what must hold does not.
void must(bool holds, const char * what, ...) __attribute__((format(printf, 2, 3)));

void test_decode();
void test_kvcache();
void test_embeddings();
void test_products();
void test_attention();
