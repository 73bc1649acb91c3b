// Decodes on every matrix path a CPU may choose: one row, a few rows, more
// rows than a tile holds. The paths may round differently; they must agree.
#include <cmath>

#include "selftest.h"

namespace {

constexpr uint32_t n_seq = 64;

llama_token token(uint32_t seq, uint32_t pos) {
    return (llama_token) ((seq * 31 + pos * 7 + 1) % tiny_model::n_vocab);
}

std::vector<row> rows_at(uint32_t pos) {
    std::vector<row> rows;
    for (uint32_t s = 0; s < n_seq; s++) {
        rows.push_back({ token(s, pos), (llama_pos) pos, (llama_seq_id) s });
    }
    return rows;
}

} // namespace

void test_decode() {
    tiny_model tiny;
    for (bool flash_attn : { true, false }) {
        llama_context * together = make_context(tiny.model, n_seq, 256, flash_attn);
        llama_context * alone    = make_context(tiny.model, n_seq, 256, flash_attn);

        for (uint32_t pos = 0; pos < 3; pos++) {
            const auto rows = rows_at(pos);
            const auto got  = decode(together, rows);
            for (uint32_t s = 0; s < n_seq; s++) {
                for (float x : got[s]) {
                    must(std::isfinite(x), "a logit of sequence %u is not a number", s);
                }
                if (s % 16 != 5) {
                    continue;
                }
                const auto   want = decode(alone, { rows[s] });
                const double same = cosine(got[s], want[0]);
                must(same > 0.99, "sequence %u at %u: %u rows together and one row alone agree only to %.4f",
                     s, pos, n_seq, same);
            }
        }
        llama_free(together);
        llama_free(alone);
    }
}
