// The functions of llama.cpp's common/common.cpp that its converter of JSON schemas
// needs. That file itself needs most of llama.cpp's tools.
#include "common.h"

std::string string_join(const std::vector<std::string> & values, const std::string & separator) {
    std::string joined;
    for (size_t i = 0; i < values.size(); i++) {
        if (i > 0) {
            joined += separator;
        }
        joined += values[i];
    }
    return joined;
}

std::vector<std::string> string_split(const std::string & str, const std::string & delimiter) {
    std::vector<std::string> parts;
    size_t                   from = 0;
    for (size_t at; (at = str.find(delimiter, from)) != std::string::npos; from = at + delimiter.size()) {
        parts.push_back(str.substr(from, at - from));
    }
    parts.push_back(str.substr(from));
    return parts;
}

std::string string_repeat(const std::string & str, size_t n) {
    std::string repeated;
    for (; n > 0; n--) {
        repeated += str;
    }
    return repeated;
}
