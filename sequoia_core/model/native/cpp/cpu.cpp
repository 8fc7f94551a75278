// Which of the compiled kernels this processor runs.
#include <cstring>
#include <string>
#include <vector>

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "kernels.hpp"

namespace sequoia {

#if defined(__x86_64__)
namespace avx512_bf16 { extern const Kernels KERNELS; }
namespace avx512_vnni { extern const Kernels KERNELS; }
namespace avx_vnni { extern const Kernels KERNELS; }
namespace avx2 { extern const Kernels KERNELS; }
#elif defined(__aarch64__)
namespace neon_bf16 { extern const Kernels KERNELS; }
namespace neon_dotprod { extern const Kernels KERNELS; }
#endif

namespace {

std::vector<const Kernels*> supported() {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vnni");
    if (avx512 && __builtin_cpu_supports("avx512bf16")) found.push_back(&avx512_bf16::KERNELS);
    if (avx512) found.push_back(&avx512_vnni::KERNELS);
    if (avx2 && __builtin_cpu_supports("avxvnni")) found.push_back(&avx_vnni::KERNELS);
    if (avx2) found.push_back(&avx2::KERNELS);
#elif defined(__aarch64__)
    const bool dot_products = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
    if (dot_products && getauxval(AT_HWCAP2) & HWCAP2_BF16) found.push_back(&neon_bf16::KERNELS);
    if (dot_products) found.push_back(&neon_dotprod::KERNELS);
#endif
    return found;
}

}  // namespace

const Kernels* find_kernels(const char* name) {
    for (const Kernels* each : supported())
        if (!name || std::strcmp(name, each->name) == 0) return each;
    return nullptr;
}

const char* kernel_names() {
    static const std::string names = [] {
        std::string joined;
        for (const Kernels* each : supported()) {
            if (!joined.empty()) joined += ' ';
            joined += each->name;
        }
        return joined;
    }();
    return names.c_str();
}

}  // namespace sequoia
