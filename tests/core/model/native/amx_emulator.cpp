// Intel's tile instructions on processors without them: the instructions are refused, and what the signal reports is
// computed here as in the pseudo-code of the Software Developer's Manual. So the machine code that is shipped is what
// tests run. Whatever the manual forbids ends the process with a line that says what it was.
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "kernels.hpp"

namespace {

constexpr int TILES = 8, MOST_ROWS = 16, ROW_BYTES = 64;

struct Tile {
    int rows = 0, row_bytes = 0;
    std::uint8_t data[MOST_ROWS][ROW_BYTES] = {};
};

std::atomic<int> threads_with_tiles{0};
std::atomic<std::int64_t> dot_products{0};
std::atomic<int> requests{0};
std::atomic<bool> refusing{false};

struct State {
    bool configured = false;
    Tile tiles[TILES];

    void configure(bool on) {
        threads_with_tiles.fetch_add(on - configured);
        configured = on;
    }
    ~State() { configure(false); }
};

thread_local State state;

[[noreturn]] void refuse(const char* why) {
    for (const char* text : {"tile instructions: ", why, "\n"})
        if (write(STDERR_FILENO, text, std::strlen(text)) < 0) break;
    _exit(3);
}

void require(bool holds, const char* what) {
    if (!holds) refuse(what);
}

// One instruction: prefix VEX of three bytes in map 0F38, ModRM, perhaps SIB and an offset.
struct Instruction {
    int opcode, prefix, field, other, third;  // field, other and third: ModRM.reg, ModRM.rm, VEX.vvvv
    bool in_registers, has_index;
    std::uintptr_t address, stride, end;
};

std::uintptr_t value_of(const greg_t* registers, int number) {
    constexpr int PLACES[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return static_cast<std::uintptr_t>(registers[PLACES[number]]);
}

bool is_of_tiles(const std::uint8_t* at) {
    const bool known = at[3] == 0x49 || at[3] == 0x4b || at[3] == 0x5e;
    return at[0] == 0xc4 && (at[1] & 31) == 2 && (at[2] & 0x84) == 0 && known;  // map 0F38, W 0, 128 bits
}

Instruction decode(const std::uint8_t* at, const greg_t* registers) {
    const int extra_field = at[1] & 0x80 ? 0 : 8, extra_index = at[1] & 0x40 ? 0 : 8, extra_base = at[1] & 0x20 ? 0 : 8;
    const int mode = at[4] >> 6, low = at[4] & 7;
    Instruction found{};
    found.opcode = at[3];
    found.prefix = at[2] & 3;
    found.third = ~(at[2] >> 3) & 15;
    found.field = (at[4] >> 3 & 7) | extra_field;
    found.other = low | extra_base;
    found.in_registers = mode == 3;
    const std::uint8_t* next = at + 5;
    if (!found.in_registers) {
        std::uintptr_t base = 0, index = 0;
        bool offset_alone = mode == 0 && low == 5, relative = offset_alone;
        if (low == 4) {
            const int scale = *next >> 6, number = (*next >> 3 & 7) | extra_index, from = *next & 7;
            ++next;
            offset_alone = mode == 0 && from == 5;
            if (number != 4) index = value_of(registers, number) << scale;
            if (!offset_alone) base = value_of(registers, from | extra_base);
            found.has_index = true;
        } else if (!relative) {
            base = value_of(registers, found.other);
        }
        std::int32_t offset = 0;
        if (mode == 1) {
            offset = static_cast<std::int8_t>(*next++);
        } else if (mode == 2 || offset_alone) {
            std::memcpy(&offset, next, sizeof offset);
            next += sizeof offset;
        }
        if (relative) base = reinterpret_cast<std::uintptr_t>(next);
        found.address = base + static_cast<std::uintptr_t>(static_cast<std::intptr_t>(offset));
        if (!found.has_index) found.address += index;
        found.stride = index;
    }
    found.end = reinterpret_cast<std::uintptr_t>(next);
    return found;
}

Tile& tile(int number) {
    require(state.configured, "no tiles are configured");
    require(number < TILES, "there is no such tile");
    Tile& found = state.tiles[number];
    require(found.rows > 0 && found.row_bytes > 0, "the tile has no shape");
    return found;
}

void release() {
    state.configure(false);
    for (Tile& each : state.tiles) each = Tile{};
}

void configure(const std::uint8_t* from) {
    release();
    require(from[0] <= 1, "the palette is unknown");
    if (from[0] == 0) return;
    for (int i = 1; i < 16; ++i) require(from[i] == 0, "a reserved byte or the start row is set");
    for (int i = 0; i < 16; ++i) {
        const int row_bytes = from[16 + 2 * i] | from[17 + 2 * i] << 8, rows = from[48 + i];
        require(i < TILES || (rows == 0 && row_bytes == 0), "a tile past the last has a shape");
        require(rows <= MOST_ROWS && row_bytes <= ROW_BYTES, "a tile is too large");
        require((rows == 0) == (row_bytes == 0), "a tile has either rows or columns");
        if (i < TILES) {
            state.tiles[i].rows = rows;
            state.tiles[i].row_bytes = row_bytes;
        }
    }
    state.configure(true);
}

void load(Tile& to, const Instruction& at) {
    std::memset(to.data, 0, sizeof to.data);
    for (int row = 0; row < to.rows; ++row)
        std::memcpy(to.data[row],
                    reinterpret_cast<const void*>(at.address + static_cast<std::uintptr_t>(row) * at.stride),
                    static_cast<std::size_t>(to.row_bytes));
}

void store(const Tile& from, const Instruction& at) {
    for (int row = 0; row < from.rows; ++row)
        std::memcpy(reinterpret_cast<void*>(at.address + static_cast<std::uintptr_t>(row) * at.stride), from.data[row],
                    static_cast<std::size_t>(from.row_bytes));
}

int signed_byte(std::uint8_t byte) { return static_cast<std::int8_t>(byte); }

void multiply(const Instruction& at) {
    require(at.field != at.other && at.field != at.third && at.other != at.third, "a tile is named twice");
    Tile &sums = tile(at.field), &a = tile(at.other), &b = tile(at.third);
    require(sums.row_bytes % 4 == 0 && a.row_bytes % 4 == 0 && b.row_bytes % 4 == 0, "columns are no words");
    require(a.rows == sums.rows && a.row_bytes / 4 == b.rows && b.row_bytes == sums.row_bytes, "shapes do not fit");
    for (int m = 0; m < sums.rows; ++m) {
        std::uint32_t row[ROW_BYTES / 4];
        std::memcpy(row, sums.data[m], sizeof row);
        for (int k = 0; k < a.row_bytes / 4; ++k)
            for (int n = 0; n < b.row_bytes / 4; ++n)
                for (int i = 0; i < 4; ++i)
                    row[n] += static_cast<std::uint32_t>(signed_byte(a.data[m][4 * k + i]) *
                                                         signed_byte(b.data[k][4 * n + i]));
        std::memset(sums.data[m], 0, ROW_BYTES);
        std::memcpy(sums.data[m], row, static_cast<std::size_t>(sums.row_bytes));
    }
    for (int m = sums.rows; m < MOST_ROWS; ++m) std::memset(sums.data[m], 0, ROW_BYTES);
    dot_products.fetch_add(1, std::memory_order_relaxed);
}

void compute(const Instruction& at) {
    enum { NONE, P66, PF3, PF2 };
    if (at.opcode == 0x5e && at.prefix == PF2) {
        require(at.in_registers, "a product in memory");
        return multiply(at);
    }
    require(at.third == 0, "a third operand");
    if (at.opcode == 0x49 && at.prefix == NONE && !at.in_registers)
        return configure(reinterpret_cast<const std::uint8_t*>(at.has_index ? at.address + at.stride : at.address));
    if (at.opcode == 0x49 && at.prefix == NONE && at.field == 0 && at.other == 0) return release();
    if (at.opcode == 0x49 && at.prefix == PF2 && at.in_registers && at.other == 0) {
        Tile& zeroed = tile(at.field);
        std::memset(zeroed.data, 0, sizeof zeroed.data);
        return;
    }
    require(at.opcode == 0x4b && !at.in_registers && at.has_index, "an instruction without emulation");
    if (at.prefix == PF2 || at.prefix == P66) return load(tile(at.field), at);
    require(at.prefix == PF3, "an instruction without emulation");
    store(tile(at.field), at);
}

void on_refused(int signal, siginfo_t*, void* context) {
    greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    auto next = static_cast<std::uintptr_t>(registers[REG_RIP]);
    if (!is_of_tiles(reinterpret_cast<const std::uint8_t*>(next))) {
        ::signal(signal, SIG_DFL);
        return;
    }
    do {  // those that follow at once need no signal of their own
        const Instruction found = decode(reinterpret_cast<const std::uint8_t*>(next), registers);
        compute(found);
        next = found.end;
    } while (is_of_tiles(reinterpret_cast<const std::uint8_t*>(next)));
    registers[REG_RIP] = static_cast<greg_t>(next);
}

}  // namespace

namespace sequoia {

bool has_tiles(unsigned, unsigned) { return true; }

bool ask_for_tiles() {
    ++requests;
    if (refusing) return false;
    struct sigaction action{};
    action.sa_sigaction = on_refused;
    action.sa_flags = SA_SIGINFO;
    return sigaction(SIGILL, &action, nullptr) == 0;
}

}  // namespace sequoia

#pragma GCC visibility push(default)
extern "C" {
int sequoia_threads_with_tiles() { return threads_with_tiles; }
std::int64_t sequoia_tile_products() { return dot_products; }
int sequoia_tile_requests() { return requests; }
void sequoia_refuse_tiles(int refuse) { refusing = refuse != 0; }
}
#pragma GCC visibility pop
