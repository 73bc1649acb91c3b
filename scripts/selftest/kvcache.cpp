#include "selftest.h"

void test_kvcache() {}
