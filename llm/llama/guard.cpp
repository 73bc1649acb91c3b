#include "guard.h"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>

namespace {

struct log_line {
    int32_t     level;
    std::string text;
};

// Lines wait here for Go. llama.cpp logs from threads of its own, too, and a
// call into Go from such a thread is slow. When nobody asks, the oldest are lost.
constexpr size_t     max_lines = 4096;
std::mutex           lines_mutex;
std::deque<log_line> lines;
std::atomic<int32_t> lines_waiting{0};

thread_local std::string line_part; // a line whose end has not come yet
thread_local int32_t     line_level = GGML_LOG_LEVEL_INFO;

void keep_line(int32_t level, std::string text) {
    if (text.empty()) {
        return;
    }
    call * c = call::current;
    if (c && level == GGML_LOG_LEVEL_ERROR) {
        if (c->logged.empty()) {
            c->logged = text;
        }
        level = GGML_LOG_LEVEL_DEBUG; // the caller gets it as an error
    }
    std::lock_guard<std::mutex> lock(lines_mutex);
    if (lines.size() == max_lines) {
        lines.pop_front();
    }
    lines.push_back({level, std::move(text)});
    lines_waiting = int32_t(lines.size());
}

void end_line() {
    keep_line(line_level, std::move(line_part));
    line_part.clear();
}

// A quantization says "[ 12/ 310] name ..." before each tensor. It has no other
// way to tell its progress, nor to be stopped.
void tell_progress(const char * text) {
    call * c = call::current;
    int done = 0, all = 0;
    if (!c || !c->progress || sscanf(text, "[%d/%d]", &done, &all) != 2 || all <= 0) {
        return;
    }
    if (!cllmProgress(c->progress, float(done - 1) / float(all))) {
        c->err->code = CLLM_CANCELLED;
        throw std::runtime_error("cancelled");
    }
}

void on_log(ggml_log_level level, const char * text, void *) {
    if (level != GGML_LOG_LEVEL_CONT) {
        end_line();
        line_level = level;
    }
    line_part += text;
    size_t end;
    while ((end = line_part.find('\n')) != std::string::npos) {
        std::string rest = line_part.substr(end + 1);
        line_part.resize(end);
        end_line();
        line_part = std::move(rest);
    }
    tell_progress(text);
}

// Called by ggml_abort, which ends the program when this returns.
void on_abort(const char * message) {
    call * c = call::current;
    if (c && c->catching) {
        // "/where/it/was/built/src/file.cpp:12: GGML_ASSERT(...) failed"
        const char * colon = strchr(message, ':');
        const char * name  = colon;
        while (name && name > message && name[-1] != '/') {
            name--;
        }
        throw std::runtime_error(name ? name : message);
    }
    fprintf(stderr, "llama.cpp: %s\n", message);
}

} // namespace

thread_local call * call::current = nullptr;

call::call(cllm_error * e, bool catches) : err(e), catching(catches), outer(current) {
    err->code    = CLLM_OK;
    err->text[0] = 0;
    current      = this;
}

call::~call() {
    current = outer;
    // The rest of a line that an exception cut off.
    if (!line_part.empty()) {
        end_line();
    }
}

void call::fail(int32_t code, const std::string & text) {
    if (err->code == CLLM_OK) {
        err->code = code;
    }
    // What llama.cpp logged first names the cause; what it throws is often general.
    const std::string & s = logged.empty() ? text : logged;
    const size_t        n = s.copy(err->text, sizeof(err->text) - 1);
    err->text[n]          = 0;
}

void cllm_init(void) {
    llama_log_set(on_log, nullptr);
    ggml_set_abort_callback(on_abort);
    llama_backend_init();
}

bool cllm_log_next(char * text, size_t size, int32_t * level) {
    std::lock_guard<std::mutex> lock(lines_mutex);
    if (lines.empty()) {
        return false;
    }
    const log_line & l = lines.front();
    text[l.text.copy(text, size - 1)] = 0;
    *level = l.level;
    lines.pop_front();
    lines_waiting = int32_t(lines.size());
    return true;
}

int32_t cllm_log_pending(void) {
    return lines_waiting;
}
