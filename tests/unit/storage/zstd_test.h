/* SPDX-License-Identifier: Apache-2.0 */
/* zstd_test.h - what the tests of packed segments share: a world whose sealed segments are packed. */
#ifndef ZSTD_TEST_H
#define ZSTD_TEST_H
#include <dirent.h>
#include "host.h"
#include "zp.h"
#include "zp_store.h"

static inline void pack_conf(struct world *w, uint32_t compress)
{
    w->conf.pack = &zp_store_ops;
    w->conf.compress = compress;
    w->conf.pack_level = 3;
    w->conf.pack_dict_size = 16384;
    w->conf.pack_block_size = 8192;
    w->conf.pack_rate = 1ll << 34;
    w->conf.pack_cache_bytes = 4 << 20;
    w->conf.max_open_packs = 4;
}

/* Files of the log by what stands behind their 20 digits. */
static inline void count_forms(struct world *w, uint64_t *packed, uint64_t *plain, uint64_t *other)
{
    char path[700];
    snprintf(path, sizeof path, "%s/commitlog", w->dir);
    DIR *d = opendir(path);
    cr_assert_not_null(d);
    *packed = *plain = *other = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        const char *rest = strlen(e->d_name) < 20 ? "?" : e->d_name + 20;
        if (!*rest) ++*plain;
        else if (!strcmp(rest, ".zst")) ++*packed;
        else ++*other;
    }
    closedir(d);
}

/* Until so many packed and plain files are there, and nothing temporary. One more plain file may be made ahead. */
static inline void wait_forms(struct world *w, uint64_t packed, uint64_t plain)
{
    uint64_t n_packed, n_plain, n_other;
    for (int i = 0; i < 10000; i++) {
        count_forms(w, &n_packed, &n_plain, &n_other);
        if (n_packed == packed && (n_plain == plain || n_plain == plain + 1) && n_other == 0) return;
        usleep(1000);
    }
    cr_assert_fail("%llu packed, %llu plain, %llu others; said: %s", (unsigned long long)n_packed, (unsigned long long)n_plain,
                   (unsigned long long)n_other, w->lines);
}

#endif
