// What the patch on products of quantized weights promises: a product is the same,
// but for rounding, as one that is computed weight by weight, and a row's result does
// not depend on the rows beside it.
#include "selftest.h"

#include <cmath>
#include <memory>
#include <random>

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

namespace {

constexpr int64_t width   = 768; // of a row: three blocks of quants
constexpr int64_t outs    = 216; // weight rows
constexpr int64_t most    = 33;  // activation rows
constexpr int64_t experts = 3;   // matrices of which each activation row takes one, where there are several

int32_t expert_of(int64_t row) { return int32_t(row * row % experts); }

struct freed {
    void operator()(ggml_context * p) const { ggml_free(p); }
    void operator()(ggml_backend * p) const { ggml_backend_free(p); }
    void operator()(ggml_backend_buffer * p) const { ggml_backend_buffer_free(p); }
};
template <class T> using owned = std::unique_ptr<T, freed>;

std::vector<float> noise(size_t n, unsigned seed) {
    std::mt19937                          random(seed);
    std::uniform_real_distribution<float> some(-1, 1);
    std::vector<float>                    v(n);
    for (float & x : v) {
        x = some(random);
    }
    return v;
}

// The product of the weights, which lie in a buffer of this type, with the first rows
// of the activations. Each row is multiplied with all weights, or where they are those of
// experts with those of one. Nothing where the buffer does not take weights of that type.
std::vector<float> product(ggml_backend * cpu, ggml_backend_buffer_type_t where, ggml_type type, const std::vector<char> & weights,
                           const std::vector<float> & activations, int64_t rows, bool one_expert = false) {
    const ggml_init_params p{ 1 << 20, nullptr, true };
    owned<ggml_context>    weight_ctx(ggml_init(p)), ctx(ggml_init(p));
    const int64_t          n = one_expert ? experts : 1;
    ggml_tensor *          w = ggml_new_tensor_3d(weight_ctx.get(), type, width, outs / n, n);

    owned<ggml_backend_buffer> weight_buffer(ggml_backend_alloc_ctx_tensors_from_buft(weight_ctx.get(), where));
    if (where != ggml_backend_cpu_buffer_type() && w->extra == nullptr) {
        return {};
    }
    ggml_backend_buffer_set_usage(weight_buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    ggml_backend_tensor_set(w, weights.data(), 0, weights.size());

    ggml_tensor *              a   = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, width, one_expert ? 1 : rows, one_expert ? rows : 1);
    ggml_tensor *              ids = one_expert ? ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 1, rows) : nullptr;
    ggml_tensor *              y   = one_expert ? ggml_mul_mat_id(ctx.get(), w, a, ids) : ggml_mul_mat(ctx.get(), w, a);
    owned<ggml_backend_buffer> buffer(ggml_backend_alloc_ctx_tensors(ctx.get(), cpu));
    for (int64_t i = 0; one_expert && i < rows; i++) {
        const int32_t expert = expert_of(i);
        ggml_backend_tensor_set(ids, &expert, size_t(i) * sizeof(expert), sizeof(expert));
    }
    ggml_backend_tensor_set(a, activations.data(), 0, size_t(rows * width) * sizeof(float));
    ggml_cgraph * graph = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(graph, y);
    must(ggml_backend_graph_compute(cpu, graph) == GGML_STATUS_SUCCESS, "a product of %s can't be computed", ggml_type_name(type));

    std::vector<float> out(size_t(rows * outs / n));
    ggml_backend_tensor_get(y, out.data(), 0, out.size() * sizeof(float));
    return out;
}

// The types of buffers in which the CPU keeps weights in an order of its own.
std::vector<ggml_backend_buffer_type_t> orders() {
    ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    const auto         get = (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(dev), "ggml_backend_dev_get_extra_bufts");
    std::vector<ggml_backend_buffer_type_t> list;
    for (auto * b = get ? get(dev) : nullptr; b && *b; b++) {
        list.push_back(*b);
    }
    return list;
}

// alone: each row is computed by itself, also where experts are chosen. bound: the greatest error, in parts of the greatest product.
void test_type(ggml_backend * cpu, ggml_backend_buffer_type_t order, ggml_type type, bool alone, float bound) {
    const std::vector<float> weights     = noise(size_t(outs * width), 1);
    const std::vector<float> activations = noise(size_t(most * width), 2);
    std::vector<char>        quants(ggml_row_size(type, width) * size_t(outs));
    ggml_quantize_chunk(type, weights.data(), quants.data(), 0, outs, width, nullptr);

    const std::vector<float> want = product(cpu, ggml_backend_cpu_buffer_type(), type, quants, activations, most);
    const std::vector<float> all  = product(cpu, order, type, quants, activations, most);
    if (all.empty()) {
        must(!alone, "%s does not take %s", ggml_backend_buft_name(order), ggml_type_name(type));
        printf("products: %s in %s: not taken\n", ggml_type_name(type), ggml_backend_buft_name(order));
        return;
    }
    float most_off = 0, greatest = 0;
    for (size_t i = 0; i < want.size(); i++) {
        most_off = std::fmax(most_off, std::fabs(all[i] - want[i]));
        greatest = std::fmax(greatest, std::fabs(want[i]));
    }
    must(most_off <= bound * greatest, "%s in %s: a product is %g instead of up to %g", ggml_type_name(type),
         ggml_backend_buft_name(order), double(most_off), double(greatest));
    printf("products: %s in %s: off by %.1e\n", ggml_type_name(type), ggml_backend_buft_name(order), double(most_off / greatest));
    if (!alone) {
        return;
    }
    for (int64_t rows = 1; rows < most; rows++) {
        const std::vector<float> some = product(cpu, order, type, quants, activations, rows);
        for (size_t i = 0; i < some.size(); i++) {
            must(some[i] == all[i], "%s: of %d rows, row %d differs from the same row among %d: %.9g, %.9g", ggml_type_name(type),
                 int(rows), int(i / outs), int(most), double(some[i]), double(all[i]));
        }
    }
    const std::vector<float> routed = product(cpu, order, type, quants, activations, most, true);
    for (int64_t i = 0; i < most * outs / experts; i++) {
        const int64_t row = i / (outs / experts), out = i % (outs / experts);
        const float   one = all[size_t(row * outs + expert_of(row) * (outs / experts) + out)];
        must(routed[size_t(i)] == one, "%s: row %d differs where its expert is chosen for it: %.9g, %.9g", ggml_type_name(type), int(row),
             double(routed[size_t(i)]), double(one));
    }
}

} // namespace

void test_products() {
    owned<ggml_backend> cpu(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    for (const auto order : orders()) {
        const bool ours = std::string(ggml_backend_buft_name(order)) == "CPU_REPACK";
        // Other orders may quantize the activations in another way.
        const float bound = ours ? 1e-5f : 1e-2f;
        test_type(cpu.get(), order, GGML_TYPE_Q4_0, false, bound);
        test_type(cpu.get(), order, GGML_TYPE_Q4_K, ours && ggml_cpu_has_avx512(), bound);
        test_type(cpu.get(), order, GGML_TYPE_Q6_K, ours && ggml_cpu_has_avx2(), bound);
    }
}
