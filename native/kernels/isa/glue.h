// The glue kernels of this instruction set; documented in kernels/glue.h.
#pragma once

#include "kernels/glue.h"

namespace cutset::CUTSET_ISA {

void embedding(const float* table, const std::int32_t* ids, std::size_t rows, std::size_t cols, float* out);
void scan(const TableScan& scan);
void rms_norm(const float* x, const float* gain, float eps, std::size_t rows, std::size_t cols, float* out);
void add_rms_norm(float* x, const float* delta, const float* gain, float eps, std::size_t rows, std::size_t cols,
                  float* out);
void add_bias(float* x, const float* bias, std::size_t rows, std::size_t cols);
void scaled_add(float* out, float weight, const float* x, std::size_t cols);
void scale(float* x, float factor, std::size_t count);
void softcap(float* x, float cap, std::size_t count);
void apply_rope(float* x, std::size_t stride, const float* cos, const float* sin, std::size_t rows, std::size_t heads,
                std::size_t head_dim, std::size_t rotary_dim, bool interleaved);
void append(const float* k, const float* v, std::size_t kv_heads, std::size_t head_dim, std::size_t block_size,
            std::size_t place, float* key_block, float* value_block);
void append_i8(const float* k, const float* v, std::size_t kv_heads, std::size_t head_dim, std::size_t block_size,
               std::size_t place, float* key_block, float* value_block);
void mix_heads(float* x, std::size_t heads, std::size_t head_dim);
void attention(const AttentionTask& task);
void attention_part(const AttentionTask& task, std::size_t part, float* states);
void attention_merge(const AttentionTask& task, const float* states, std::size_t parts);
void silu_mul(const float* x, std::size_t rows, std::size_t cols, float* out);
void gelu_mul(const float* x, std::size_t rows, std::size_t cols, float* out);
void gelu_erf_mul(const float* x, std::size_t rows, std::size_t cols, float* out);
void relu_mul(const float* x, bool squared, std::size_t rows, std::size_t cols, float* out);
void clamped_mul(const float* x, float limit, float alpha, std::size_t rows, std::size_t cols, float* out);
void moe_route(const float* logits, std::size_t rows, std::size_t experts, std::size_t k, bool renormalise,
               std::int32_t* ids, float* weights, float* scratch);
void multiply(const float* a, const float* b, std::size_t count, float* out);
void sigmoid_mul(float* x, const float* gate, std::size_t count);
void short_conv(const float* const* rows, std::size_t taps, const float* weight, std::size_t stride, const float* bias,
                std::size_t cols, float* out);
void delta_rule(const DeltaRuleTask& task);
void thin_dots(const ThinDots& work);
void thin_add(const ThinAdd& work);
void exp(const float* x, std::size_t count, float* out);

constexpr GlueKernels kGlue = {embedding,  scan,           rms_norm,        add_rms_norm, add_bias,    scale,
                               softcap,    scaled_add,     apply_rope,      append,       append_i8,   mix_heads,
                               attention,  attention_part, attention_merge, silu_mul,     gelu_mul,    gelu_erf_mul,
                               relu_mul,   clamped_mul,    moe_route,       multiply,     sigmoid_mul, short_conv,
                               delta_rule, thin_dots,      thin_add,        exp};

}  // namespace cutset::CUTSET_ISA
