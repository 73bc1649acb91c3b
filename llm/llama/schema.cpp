// JSON schemas to grammars, by llama.cpp's own converter.
#include "guard.h"

#include "json-schema-to-grammar.h"

#include <cstdlib>
#include <cstring>
#include <pthread.h>

namespace {

struct conversion {
    std::string  schema;
    std::string  grammar;
    cllm_error * err;
};

void * convert(void * data) {
    conversion * v = static_cast<conversion *>(data);
    guarded(v->err, true, [&](call &) { v->grammar = json_schema_to_grammar(common_json::parse(v->schema), true); });
    return nullptr;
}

} // namespace

char * cllm_schema_to_grammar(const char * schema, size_t size, size_t * grammar_size, cllm_error * err) {
    // The converter's depth is bounded, but its regular expressions recurse for each
    // character of a name: more than some systems' threads have room for.
    constexpr size_t stack = 16 << 20;

    char * text = nullptr;
    guarded(err, true, [&](call & c) {
        conversion     v = {std::string(schema, size), "", err};
        pthread_attr_t attr;
        pthread_t      thread;
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, stack);
        const int failed = pthread_create(&thread, &attr, convert, &v);
        pthread_attr_destroy(&attr);
        if (failed) {
            c.fail(CLLM_FAILED, "no thread could be had: out of memory");
            return;
        }
        pthread_join(thread, nullptr);
        if (err->code != CLLM_OK) {
            return;
        }
        text = static_cast<char *>(malloc(v.grammar.size() + 1));
        if (!text) {
            throw std::bad_alloc();
        }
        memcpy(text, v.grammar.data(), v.grammar.size());
        *grammar_size = v.grammar.size();
    });
    return text;
}
