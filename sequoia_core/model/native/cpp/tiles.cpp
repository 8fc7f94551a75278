// Whether this process may use AMX's tiles.
#if defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels.hpp"

namespace sequoia {

bool has_tiles(unsigned features, unsigned saved) {
    constexpr unsigned TILES_AND_BYTES = 3U << 24, TILE_STATES = 3U << 17;
    return (features & TILES_AND_BYTES) == TILES_AND_BYTES && (saved & TILE_STATES) == TILE_STATES;
}

bool ask_for_tiles() {
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // of Linux 5.16 and later
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

}  // namespace sequoia
#endif
