// The table of this instruction set.
#include "kernels/table.h"

#include "kernels/isa/delta.h"
#include "kernels/isa/field.h"
#include "kernels/isa/glue.h"
#include "kernels/isa/grouped.h"
#include "kernels/isa/linear.h"
#include "kernels/isa/simd.h"
#include "kernels/isa/sparse.h"

namespace cutset::CUTSET_ISA {

extern const KernelTable table;
const KernelTable table = {CUTSET_STRING(CUTSET_ISA), kGlue, kLinear, kGrouped, kField, kDelta, kSparse};

}  // namespace cutset::CUTSET_ISA
