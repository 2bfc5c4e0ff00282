// The kernels as a table of functions, one table for each instruction set.
//
// Each function works on plain memory in one thread; who calls it splits the work over threads. All matrices are
// row-major float32 unless it says otherwise.
#pragma once

#include "kernels/delta.h"
#include "kernels/field.h"
#include "kernels/glue.h"
#include "kernels/grouped.h"
#include "kernels/linear.h"
#include "kernels/sparse.h"

namespace cutset {

struct KernelTable {
  const char* isa;
  GlueKernels glue;
  LinearKernels linear;
  GroupedKernels grouped;
  FieldKernels field;
  DeltaKernels delta;
  SparseKernels sparse;
};

// The table in force: the best that this machine has, or the one that select_isa chose.
const KernelTable& kernels();

// Names of the instruction sets that this build and this machine both have, weakest first. Ends with nullptr.
const char* const* available_isas();

// Puts a table in force by name. False if this build or this machine lacks it; nothing changes then.
bool select_isa(const char* name);

}  // namespace cutset
