;; The loops of the late-interaction index that have to be fast, in WebAssembly with 128-bit SIMD.
;; `node scripts/write-kernel.mjs` compiles it into kernel-bytes.ts; a test compares the two.
(module
  (memory (export "memory") 1 65536)

  ;; Sums of table entries for every token of some blocks. A block is 16 tokens: byte b of token t is at 16 b + t, and holds two codes of 4 bits.
  ;; $tables: 16 bytes for every code, the one in the low half of byte 0 first; entries are at most 31, so that eight are added as bytes before they are
  ;; widened. $sums: 16 unsigned 16-bit sums a block.
  (func (export "sumTables")
    (param $codes i32) (param $blocks i32) (param $bytes i32) (param $tables i32) (param $sums i32)
    (local $end i32) (local $table i32) (local $tablesEnd i32) (local $stop i32)
    (local $codesHere v128) (local $few v128) (local $low v128) (local $high v128)
    (local.set $end (i32.add (local.get $sums) (i32.mul (local.get $blocks) (i32.const 32))))
    (local.set $tablesEnd (i32.add (local.get $tables) (i32.mul (local.get $bytes) (i32.const 32))))
    (block $done
      (loop $block
        (br_if $done (i32.ge_u (local.get $sums) (local.get $end)))
        (local.set $low (v128.const i64x2 0 0))
        (local.set $high (v128.const i64x2 0 0))
        (local.set $table (local.get $tables))
        (loop $some
          (local.set $few (v128.const i64x2 0 0))
          (local.set $stop (i32.add (local.get $table) (i32.const 128)))
          (if (i32.gt_u (local.get $stop) (local.get $tablesEnd)) (then (local.set $stop (local.get $tablesEnd))))
          (loop $byte
            (local.set $codesHere (v128.load (local.get $codes)))
            (local.set $few
              (i8x16.add
                (local.get $few)
                (i8x16.add
                  (i8x16.swizzle (v128.load (local.get $table)) (v128.and (local.get $codesHere) (v128.const i64x2 0x0f0f0f0f0f0f0f0f 0x0f0f0f0f0f0f0f0f)))
                  (i8x16.swizzle (v128.load offset=16 (local.get $table)) (i8x16.shr_u (local.get $codesHere) (i32.const 4))))))
            (local.set $codes (i32.add (local.get $codes) (i32.const 16)))
            (local.set $table (i32.add (local.get $table) (i32.const 32)))
            (br_if $byte (i32.lt_u (local.get $table) (local.get $stop))))
          (local.set $low (i16x8.add (local.get $low) (i16x8.extend_low_i8x16_u (local.get $few))))
          (local.set $high (i16x8.add (local.get $high) (i16x8.extend_high_i8x16_u (local.get $few))))
          (br_if $some (i32.lt_u (local.get $table) (local.get $tablesEnd))))
        (v128.store (local.get $sums) (local.get $low))
        (v128.store offset=16 (local.get $sums) (local.get $high))
        (local.set $sums (i32.add (local.get $sums) (i32.const 32)))
        (br $block))))

  ;; The same for four tokens of a question at once, which read the codes together. $tables: for every code the entries of the first token, the second, the
  ;; third, the fourth. $sums: all of the first token, then all of the second, and so on.
  (func (export "sumTablesOfFour")
    (param $codes i32) (param $blocks i32) (param $bytes i32) (param $tables i32) (param $sums i32)
    (local $all i32) (local $place i32) (local $end i32) (local $table i32) (local $tablesEnd i32) (local $stop i32) (local $first v128) (local $second v128)
    (local $few0 v128) (local $low0 v128) (local $high0 v128) (local $few1 v128) (local $low1 v128) (local $high1 v128) (local $few2 v128) (local $low2 v128) (local $high2 v128) (local $few3 v128) (local $low3 v128) (local $high3 v128)
    (local.set $all (i32.mul (local.get $blocks) (i32.const 32)))
    (local.set $end (i32.add (local.get $sums) (local.get $all)))
    (local.set $tablesEnd (i32.add (local.get $tables) (i32.mul (local.get $bytes) (i32.const 128))))
    (block $done
      (loop $block
        (br_if $done (i32.ge_u (local.get $sums) (local.get $end)))
        (local.set $low0 (v128.const i64x2 0 0))
        (local.set $high0 (v128.const i64x2 0 0))
        (local.set $low1 (v128.const i64x2 0 0))
        (local.set $high1 (v128.const i64x2 0 0))
        (local.set $low2 (v128.const i64x2 0 0))
        (local.set $high2 (v128.const i64x2 0 0))
        (local.set $low3 (v128.const i64x2 0 0))
        (local.set $high3 (v128.const i64x2 0 0))
        (local.set $table (local.get $tables))
        (loop $some
          (local.set $few0 (v128.const i64x2 0 0))
          (local.set $few1 (v128.const i64x2 0 0))
          (local.set $few2 (v128.const i64x2 0 0))
          (local.set $few3 (v128.const i64x2 0 0))
          (local.set $stop (i32.add (local.get $table) (i32.const 512)))
          (if (i32.gt_u (local.get $stop) (local.get $tablesEnd)) (then (local.set $stop (local.get $tablesEnd))))
          (loop $byte
            (local.set $first (v128.load (local.get $codes)))
            (local.set $second (i8x16.shr_u (local.get $first) (i32.const 4)))
            (local.set $first (v128.and (local.get $first) (v128.const i64x2 0x0f0f0f0f0f0f0f0f 0x0f0f0f0f0f0f0f0f)))
            (local.set $few0
              (i8x16.add
                (local.get $few0)
                (i8x16.add
                  (i8x16.swizzle (v128.load (local.get $table)) (local.get $first))
                  (i8x16.swizzle (v128.load offset=64 (local.get $table)) (local.get $second)))))
            (local.set $few1
              (i8x16.add
                (local.get $few1)
                (i8x16.add
                  (i8x16.swizzle (v128.load offset=16 (local.get $table)) (local.get $first))
                  (i8x16.swizzle (v128.load offset=80 (local.get $table)) (local.get $second)))))
            (local.set $few2
              (i8x16.add
                (local.get $few2)
                (i8x16.add
                  (i8x16.swizzle (v128.load offset=32 (local.get $table)) (local.get $first))
                  (i8x16.swizzle (v128.load offset=96 (local.get $table)) (local.get $second)))))
            (local.set $few3
              (i8x16.add
                (local.get $few3)
                (i8x16.add
                  (i8x16.swizzle (v128.load offset=48 (local.get $table)) (local.get $first))
                  (i8x16.swizzle (v128.load offset=112 (local.get $table)) (local.get $second)))))
            (local.set $codes (i32.add (local.get $codes) (i32.const 16)))
            (local.set $table (i32.add (local.get $table) (i32.const 128)))
            (br_if $byte (i32.lt_u (local.get $table) (local.get $stop))))
          (local.set $low0 (i16x8.add (local.get $low0) (i16x8.extend_low_i8x16_u (local.get $few0))))
          (local.set $high0 (i16x8.add (local.get $high0) (i16x8.extend_high_i8x16_u (local.get $few0))))
          (local.set $low1 (i16x8.add (local.get $low1) (i16x8.extend_low_i8x16_u (local.get $few1))))
          (local.set $high1 (i16x8.add (local.get $high1) (i16x8.extend_high_i8x16_u (local.get $few1))))
          (local.set $low2 (i16x8.add (local.get $low2) (i16x8.extend_low_i8x16_u (local.get $few2))))
          (local.set $high2 (i16x8.add (local.get $high2) (i16x8.extend_high_i8x16_u (local.get $few2))))
          (local.set $low3 (i16x8.add (local.get $low3) (i16x8.extend_low_i8x16_u (local.get $few3))))
          (local.set $high3 (i16x8.add (local.get $high3) (i16x8.extend_high_i8x16_u (local.get $few3))))
          (br_if $some (i32.lt_u (local.get $table) (local.get $tablesEnd))))
        (local.set $place (local.get $sums))
        (v128.store (local.get $place) (local.get $low0))
        (v128.store offset=16 (local.get $place) (local.get $high0))
        (local.set $place (i32.add (local.get $place) (local.get $all)))
        (v128.store (local.get $place) (local.get $low1))
        (v128.store offset=16 (local.get $place) (local.get $high1))
        (local.set $place (i32.add (local.get $place) (local.get $all)))
        (v128.store (local.get $place) (local.get $low2))
        (v128.store offset=16 (local.get $place) (local.get $high2))
        (local.set $place (i32.add (local.get $place) (local.get $all)))
        (v128.store (local.get $place) (local.get $low3))
        (v128.store offset=16 (local.get $place) (local.get $high3))
        (local.set $sums (i32.add (local.get $sums) (i32.const 32)))
        (br $block))))

  ;; Adds to every row's score the greatest of factor · ($weight · sum + $share) over its tokens. $factors and $sums: unsigned 16 bits a token;
  ;; $ends: 32 bits a row, where its tokens end; $scores: float32 a row. Every row has a token.
  (func (export "addBest")
    (param $sums i32) (param $factors i32) (param $ends i32) (param $rows i32) (param $weight f32) (param $share f32) (param $scores i32)
    (local $endsEnd i32) (local $token i32) (local $last i32) (local $at i32) (local $weights v128) (local $shares v128) (local $most v128)
    (local.set $weights (f32x4.splat (local.get $weight)))
    (local.set $shares (f32x4.splat (local.get $share)))
    (local.set $endsEnd (i32.add (local.get $ends) (i32.mul (local.get $rows) (i32.const 4))))
    (block $done
      (loop $row
        (br_if $done (i32.ge_u (local.get $ends) (local.get $endsEnd)))
        (local.set $last (i32.load (local.get $ends)))
        (local.set $most (f32x4.splat (f32.const -inf)))
        (if (i32.lt_u (i32.sub (local.get $last) (local.get $token)) (i32.const 4))
          ;; one to three tokens, each in all places
          (then
            (loop $one
              (local.set $at (i32.shl (local.get $token) (i32.const 1)))
              (local.set $most
                (f32x4.pmax
                  (local.get $most)
                  (f32x4.mul
                    (f32x4.splat (f32.convert_i32_u (i32.load16_u (i32.add (local.get $factors) (local.get $at)))))
                    (f32x4.add
                      (f32x4.mul
                        (local.get $weights)
                        (f32x4.splat (f32.convert_i32_u (i32.load16_u (i32.add (local.get $sums) (local.get $at))))))
                      (local.get $shares)))))
              (local.set $token (i32.add (local.get $token) (i32.const 1)))
              (br_if $one (i32.lt_u (local.get $token) (local.get $last)))))
          ;; four at a time; the last four may overlap those before
          (else
            (loop $four
              (local.set $at (i32.shl (local.get $token) (i32.const 1)))
              (local.set $most
                (f32x4.pmax
                  (local.get $most)
                  (f32x4.mul
                    (f32x4.convert_i32x4_u (v128.load16x4_u (i32.add (local.get $factors) (local.get $at))))
                    (f32x4.add
                      (f32x4.mul
                        (local.get $weights)
                        (f32x4.convert_i32x4_u (v128.load16x4_u (i32.add (local.get $sums) (local.get $at)))))
                      (local.get $shares)))))
              (local.set $token (i32.add (local.get $token) (i32.const 4)))
              (if (i32.lt_u (local.get $token) (local.get $last))
                (then
                  (if (i32.gt_u (i32.add (local.get $token) (i32.const 4)) (local.get $last))
                    (then (local.set $token (i32.sub (local.get $last) (i32.const 4)))))
                  (br $four))))))
        (f32.store
          (local.get $scores)
          (f32.add
            (f32.load (local.get $scores))
            (f32.max
              (f32.max (f32x4.extract_lane 0 (local.get $most)) (f32x4.extract_lane 1 (local.get $most)))
              (f32.max (f32x4.extract_lane 2 (local.get $most)) (f32x4.extract_lane 3 (local.get $most))))))
        (local.set $token (local.get $last))
        (local.set $scores (i32.add (local.get $scores) (i32.const 4)))
        (local.set $ends (i32.add (local.get $ends) (i32.const 4)))
        (br $row))))

  ;; The sum, over a question's tokens, of the greatest product with the direction of a token of some int8 memory. $asked: $questions tokens of signed
  ;; 16-bit integers; $tokens: $count tokens of signed bytes. $width: a multiple of 16; products fit 32 bits. $best: room for float32 a question token.
  (func (export "maxSimilarity")
    (param $asked i32) (param $questions i32) (param $tokens i32) (param $count i32) (param $width i32) (param $best i32) (result f32)
    (local $end i32) (local $at i32) (local $question i32) (local $place i32) (local $bytes v128) (local $half v128)
    (local $squares v128) (local $product v128) (local $inverse f32) (local $cosine f32) (local $sum f32)
    (loop $clear
      (f32.store (i32.add (local.get $best) (i32.shl (local.get $question) (i32.const 2))) (f32.const -inf))
      (local.set $question (i32.add (local.get $question) (i32.const 1)))
      (br_if $clear (i32.lt_u (local.get $question) (local.get $questions))))
    (local.set $end (i32.add (local.get $tokens) (i32.mul (local.get $count) (local.get $width))))
    (loop $token
      (local.set $squares (v128.const i64x2 0 0))
      (local.set $at (i32.const 0))
      (loop $square
        (local.set $bytes (v128.load (i32.add (local.get $tokens) (local.get $at))))
        (local.set $half (i16x8.extend_low_i8x16_s (local.get $bytes)))
        (local.set $squares (i32x4.add (local.get $squares) (i32x4.dot_i16x8_s (local.get $half) (local.get $half))))
        (local.set $half (i16x8.extend_high_i8x16_s (local.get $bytes)))
        (local.set $squares (i32x4.add (local.get $squares) (i32x4.dot_i16x8_s (local.get $half) (local.get $half))))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (br_if $square (i32.lt_u (local.get $at) (local.get $width))))
      (local.set $inverse
        (f32.convert_i32_u
          (i32.add
            (i32.add (i32x4.extract_lane 0 (local.get $squares)) (i32x4.extract_lane 1 (local.get $squares)))
            (i32.add (i32x4.extract_lane 2 (local.get $squares)) (i32x4.extract_lane 3 (local.get $squares))))))
      ;; a token of zeros has cosine 0 with all
      (if (f32.gt (local.get $inverse) (f32.const 0))
        (then (local.set $inverse (f32.div (f32.const 1) (f32.sqrt (local.get $inverse))))))
      (local.set $question (i32.const 0))
      (local.set $place (local.get $asked))
      (loop $ask
        (local.set $product (v128.const i64x2 0 0))
        (local.set $at (i32.const 0))
        (loop $part
          (local.set $bytes (v128.load (i32.add (local.get $tokens) (local.get $at))))
          (local.set $product
            (i32x4.add
              (local.get $product)
              (i32x4.add
                (i32x4.dot_i16x8_s (v128.load (local.get $place)) (i16x8.extend_low_i8x16_s (local.get $bytes)))
                (i32x4.dot_i16x8_s (v128.load offset=16 (local.get $place)) (i16x8.extend_high_i8x16_s (local.get $bytes))))))
          (local.set $place (i32.add (local.get $place) (i32.const 32)))
          (local.set $at (i32.add (local.get $at) (i32.const 16)))
          (br_if $part (i32.lt_u (local.get $at) (local.get $width))))
        (local.set $cosine
          (f32.mul
            (local.get $inverse)
            (f32.convert_i32_s
              (i32.add
                (i32.add (i32x4.extract_lane 0 (local.get $product)) (i32x4.extract_lane 1 (local.get $product)))
                (i32.add (i32x4.extract_lane 2 (local.get $product)) (i32x4.extract_lane 3 (local.get $product)))))))
        (local.set $at (i32.add (local.get $best) (i32.shl (local.get $question) (i32.const 2))))
        (f32.store (local.get $at) (f32.max (f32.load (local.get $at)) (local.get $cosine)))
        (local.set $question (i32.add (local.get $question) (i32.const 1)))
        (br_if $ask (i32.lt_u (local.get $question) (local.get $questions))))
      (local.set $tokens (i32.add (local.get $tokens) (local.get $width)))
      (br_if $token (i32.lt_u (local.get $tokens) (local.get $end))))
    (local.set $question (i32.const 0))
    (loop $gather
      (local.set $sum
        (f32.add (local.get $sum) (f32.load (i32.add (local.get $best) (i32.shl (local.get $question) (i32.const 2))))))
      (local.set $question (i32.add (local.get $question) (i32.const 1)))
      (br_if $gather (i32.lt_u (local.get $question) (local.get $questions))))
    (local.get $sum))

  ;; The nearest of some bit strings by Hamming distance, the first of equals: its number · 65,536 + the distance. $bytes: a multiple of 16, below 8,192.
  (func (export "nearest") (param $query i32) (param $strings i32) (param $count i32) (param $bytes i32) (result i32)
    (local $number i32) (local $best i32) (local $least i32) (local $place i32) (local $sum v128) (local $distance i32)
    (local.set $least (i32.const 0x7fffffff))
    (block $done
      (loop $string
        (br_if $done (i32.ge_u (local.get $number) (local.get $count)))
        (local.set $sum (v128.const i64x2 0 0))
        (local.set $place (i32.const 0))
        (loop $part
          (local.set $sum
            (i16x8.add
              (local.get $sum)
              (i16x8.extadd_pairwise_i8x16_u
                (i8x16.popcnt
                  (v128.xor
                    (v128.load (i32.add (local.get $query) (local.get $place)))
                    (v128.load (i32.add (local.get $strings) (local.get $place))))))))
          (local.set $place (i32.add (local.get $place) (i32.const 16)))
          (br_if $part (i32.lt_u (local.get $place) (local.get $bytes))))
        (local.set $sum (i32x4.extadd_pairwise_i16x8_u (local.get $sum)))
        (local.set $distance
          (i32.add
            (i32.add (i32x4.extract_lane 0 (local.get $sum)) (i32x4.extract_lane 1 (local.get $sum)))
            (i32.add (i32x4.extract_lane 2 (local.get $sum)) (i32x4.extract_lane 3 (local.get $sum)))))
        (if (i32.lt_u (local.get $distance) (local.get $least))
          (then
            (local.set $least (local.get $distance))
            (local.set $best (local.get $number))))
        (local.set $strings (i32.add (local.get $strings) (local.get $bytes)))
        (local.set $number (i32.add (local.get $number) (i32.const 1)))
        (br $string)))
    (i32.or (i32.shl (local.get $best) (i32.const 16)) (local.get $least)))
)
