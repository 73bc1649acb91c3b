#include <cstdio>
#include <cstring>

#include "selftest.h"

namespace {

void quiet(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

} // namespace

int main(int argc, char ** argv) {
    const char * what = argc == 2 ? argv[1] : "";
    llama_log_set(quiet, nullptr);
    llama_backend_init();
    if (strcmp(what, "decode") == 0) {
        test_decode();
    } else if (strcmp(what, "kvcache") == 0) {
        test_kvcache();
    } else if (strcmp(what, "embeddings") == 0) {
        test_embeddings();
    } else if (strcmp(what, "products") == 0) {
        test_products();
    } else if (strcmp(what, "attention") == 0) {
        test_attention();
    } else {
        fprintf(stderr, "usage: selftest decode|kvcache|embeddings|products|attention\n");
        return 2;
    }
    llama_backend_free();
    printf("%s: ok\n", what);
    return 0;
}
