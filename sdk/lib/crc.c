/* SPDX-License-Identifier: Apache-2.0 */
/* crc.c - CRC-32 (IEEE) by libdeflate, which folds with carry-less multiplication where the processor can: record bodies are
 * summed at memory speed. */
#include "zl/text.h"

#include <libdeflate.h>

uint32_t zl_crc32(uint32_t crc, const void *bytes, uint64_t len)
{
    if (len == 0) return crc; /* libdeflate answers a NULL buffer with 0 */
    return libdeflate_crc32(crc, bytes, len);
}
