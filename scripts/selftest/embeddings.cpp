// What the patch on embeddings promises: no room is made for the logits of a batch
// whose embeddings are taken, and the next batch has its logits as ever.
#include "selftest.h"

void test_embeddings() {
    tiny_model             tiny;
    llama_context *        ctx = make_context(tiny.model, 2, 256, true);
    const std::vector<row> rows { { 1, 0, 0 }, { 2, 1, 0 }, { 3, 2, 0 } };
    const auto             want = decode(ctx, rows);

    for (int i = 0; i < 2; i++) {
        llama_memory_clear(llama_get_memory(ctx), true);
        llama_set_embeddings(ctx, true);
        submit(ctx, rows);
        must(llama_get_embeddings_ith(ctx, 2) != nullptr, "a row has no embedding");
        must(llama_get_logits(ctx) == nullptr, "beside the embeddings there is room for logits");

        llama_memory_clear(llama_get_memory(ctx), true);
        llama_set_embeddings(ctx, false);
        const double same = cosine(decode(ctx, rows).back(), want.back());
        must(same > 0.999, "logits before and after embeddings agree only to %.5f", same);
    }
    llama_free(ctx);
}
