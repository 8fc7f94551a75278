// Which of the compiled kernels this processor runs.
#include <cstring>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "kernels.hpp"

namespace sequoia {

#if defined(__x86_64__)
#if defined(SEQUOIA_AMX)
namespace amx_int8 {
extern const Kernels KERNELS;
}
#endif
namespace avx512_bf16 {
extern const Kernels KERNELS;
}
namespace avx512_vnni {
extern const Kernels KERNELS;
}
namespace avx_vnni {
extern const Kernels KERNELS;
}
namespace avx2 {
extern const Kernels KERNELS;
}
#elif defined(__aarch64__)
namespace neon_bf16 {
extern const Kernels KERNELS;
}
namespace neon_dotprod {
extern const Kernels KERNELS;
}
#endif

namespace {

#if defined(__x86_64__)

// Features of the processor that the system saves at a context switch. By CPUID, since
// __builtin_cpu_supports is always false if Zig compiles.
class Processor {
 public:
    Processor() {
        __get_cpuid(1, &unused_, &unused_, &features1_, &unused_);
        __get_cpuid_count(7, 0, &unused_, &features7_, &more7_, &last7_);
        __get_cpuid_count(7, 1, &later7_, &unused_, &unused_, &unused_);
        if (!bit(features1_, 27)) return;  // OSXSAVE
        unsigned low = 0, high = 0;
        asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        saved_ = low;
    }
    bool avx2() const {
        return saves(0x6) && bit(features7_, 5) && bit(features1_, 12) && bit(features1_, 29);  // with FMA, F16C
    }
    bool avx_vnni() const { return avx2() && bit(later7_, 4); }
    bool avx512_vnni() const {  // with the parts F, DQ, BW and VL
        return avx2() && saves(0xe6) && bit(features7_, 16) && bit(features7_, 17) && bit(features7_, 30) &&
               bit(features7_, 31) && bit(more7_, 11);
    }
    bool avx512_bf16() const { return avx512_vnni() && bit(later7_, 5); }
    bool amx_int8() const { return avx512_bf16() && has_tiles(last7_, saved_); }

 private:
    static bool bit(unsigned word, unsigned index) { return word >> index & 1; }
    bool saves(unsigned states) const { return (saved_ & states) == states; }

    unsigned unused_ = 0, features1_ = 0, features7_ = 0, more7_ = 0, last7_ = 0, later7_ = 0, saved_ = 0;
};

#endif

std::vector<const Kernels*> supported() {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    const Processor processor;
    if (processor.avx512_bf16()) found.push_back(&avx512_bf16::KERNELS);
    if (processor.avx512_vnni()) found.push_back(&avx512_vnni::KERNELS);
    if (processor.avx_vnni()) found.push_back(&avx_vnni::KERNELS);
    if (processor.avx2()) found.push_back(&avx2::KERNELS);
#if defined(SEQUOIA_AMX)
    if (processor.amx_int8()) found.push_back(&amx_int8::KERNELS);  // last, since no hardware has run it yet
#endif
#elif defined(__aarch64__)
    const bool dot_products = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
    if (dot_products && getauxval(AT_HWCAP2) & HWCAP2_BF16) found.push_back(&neon_bf16::KERNELS);
    if (dot_products) found.push_back(&neon_dotprod::KERNELS);
#endif
    return found;
}

bool permitted([[maybe_unused]] const Kernels* kernels) {
#if defined(SEQUOIA_AMX)
    if (kernels == &amx_int8::KERNELS) return ask_for_tiles();
#endif
    return true;
}

}  // namespace

const Kernels* find_kernels(const char* name) {
    for (const Kernels* each : supported())
        if (!name || std::strcmp(name, each->name) == 0) return permitted(each) ? each : nullptr;
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
