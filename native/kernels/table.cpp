// Chooses a kernel table when the program runs.
#include "kernels/table.h"

#include <atomic>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace cutset {

namespace portable {
extern const KernelTable table;
}
#if defined(__x86_64__)
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
namespace avx512vnni {
extern const KernelTable table;
}
namespace amx {
extern const KernelTable table;
}
#endif

namespace {

constexpr int kMost = 5;

#if defined(__x86_64__)
// Conversions of float16, which __builtin_cpu_supports knows of in newer compilers alone.
bool has_f16c() {
  unsigned a, b, c, d;
  constexpr unsigned kF16c = 1u << 29;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & kF16c);
}

// The processor has tiles of 8 bits and of bfloat16, and Linux lets this process use them (it asks to be asked, because
// the state of a thread grows by eight kilobytes). With one of the two there would be another arithmetic of this name.
bool amx_granted() {
#if defined(__linux__)
  unsigned a, b, c, d;
  constexpr unsigned kTiles = 1u << 22 | 1u << 24 | 1u << 25;  // AMX-BF16, AMX-TILE, AMX-INT8
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTiles) != kTiles) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

struct Available {
  const KernelTable* tables[kMost] = {};
  const char* names[kMost + 1] = {};
  int count = 0;

  void add(const KernelTable& table) {
    tables[count] = &table;
    names[count] = table.isa;
    ++count;
  }

  Available() {
    add(portable::table);
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) add(avx2::table);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      add(avx512::table);
      if (__builtin_cpu_supports("avx512vnni")) {
        add(avx512vnni::table);
        if (amx_granted()) add(amx::table);
      }
    }
#endif
  }
};

const Available& available() {
  static const Available found;
  return found;
}

std::atomic<const KernelTable*> chosen{nullptr};

}  // namespace

const KernelTable& kernels() {
  const KernelTable* table = chosen.load(std::memory_order_acquire);
  return table ? *table : *available().tables[available().count - 1];
}

const char* const* available_isas() { return available().names; }

bool select_isa(const char* name) {
  for (int i = 0; i < available().count; ++i) {
    if (std::strcmp(available().names[i], name) == 0) {
      chosen.store(available().tables[i], std::memory_order_release);
      return true;
    }
  }
  return false;
}

}  // namespace cutset
