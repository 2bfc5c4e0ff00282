// Ends of links in shared memory, from the objects of cutset.link._ring.
#pragma once

#include <nanobind/nanobind.h>

#include "link/ends.h"

namespace cutset::bindings {

// What an end's capsule points to. The object must be kept alive.
template <class End>
End end_of(nanobind::handle object) {
  const nanobind::capsule capsule = nanobind::cast<nanobind::capsule>(object.attr("end")());
  return *static_cast<End*>(capsule.data(End::kName));
}

}  // namespace cutset::bindings
