//go:build cgo && chainbench

package llama

/*
#include "shim.h"
#include <stdlib.h>

static struct llama_sampler * new_chain(void) {
	struct llama_sampler * s = llama_sampler_chain_init(llama_sampler_chain_default_params());
	llama_sampler_chain_add(s, llama_sampler_init_top_k(40));
	llama_sampler_chain_add(s, llama_sampler_init_top_p(0.9f, 1));
	llama_sampler_chain_add(s, llama_sampler_init_temp(0.8f));
	llama_sampler_chain_add(s, llama_sampler_init_dist(1));
	return s;
}

static int32_t run_chain(struct llama_sampler * s, const float * logits, int32_t n, llama_token_data * data) {
	for (int32_t i = 0; i < n; i++) {
		data[i] = (llama_token_data){i, logits[i], 0};
	}
	llama_token_data_array a = {data, n, -1, false};
	llama_sampler_apply(s, &a);
	return a.data[a.selected].id;
}
*/
import "C"

import "unsafe"

// samplerChain samples a row as llama.cpp's own samplers do: what Sample is compared with.
// It is built with -tags chainbench only.
type samplerChain struct {
	c    *C.struct_llama_sampler
	data *C.llama_token_data
}

func newSamplerChain(n int) *samplerChain {
	return &samplerChain{c: C.new_chain(), data: (*C.llama_token_data)(C.malloc(C.size_t(n) * C.sizeof_llama_token_data))}
}

func (c *samplerChain) sample(row []float32) int32 {
	return int32(C.run_chain(c.c, (*C.float)(unsafe.Pointer(&row[0])), C.int32_t(len(row)), c.data))
}

func (c *samplerChain) close() {
	C.llama_sampler_free(c.c)
	C.free(unsafe.Pointer(c.data))
}
