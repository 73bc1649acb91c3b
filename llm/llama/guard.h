// Keeps C++ failures on the C++ side. Included by the .cpp files only.
#pragma once

#include "shim.h"

#include <exception>
#include <stdexcept>
#include <string>

// call is one call from Go on its thread: it collects the first error that
// llama.cpp logs. While a call is catching, a failed assertion of llama.cpp is
// an exception instead of the end of the program. That is only for calls that
// start no computation: threads of a computation can't be unwound.
struct call {
    explicit call(cllm_error * err, bool catching = true);
    ~call();
    call(const call &) = delete;

    void fail(int32_t code, const std::string & text);

    cllm_error * const err;
    const bool         catching;
    uintptr_t          progress = 0; // of a quantization: told from its log lines
    std::string        logged;
    call *             outer;

    static thread_local call * current;
};

// guarded runs f and turns what it throws into err.
template <typename F> void guarded(cllm_error * err, bool catching, F f) {
    call c(err, catching);
    try {
        f(c);
    } catch (const std::exception & e) {
        c.fail(CLLM_FAILED, e.what());
    } catch (...) {
        c.fail(CLLM_FAILED, "an unknown C++ exception");
    }
}
