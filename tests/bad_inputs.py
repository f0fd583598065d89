"""The zoo of bad inputs: what may be wrong, and the tests that say how the kit behaves then, one row each."""

# ruff: noqa: E501 - the names of tests are as long as they are

TORN, AGAIN = "tests/report/test_journal.py", "tests/test_bad_input_rows.py"
MODELS, PROMPT, BITS = "tests/subjects/test_models.py", "tests/subjects/test_prompt.py", "tests/numerics/test_bits.py"
STORE, FILES, DEVICES = (
    "tests/traces/test_store.py",
    "tests/traces/test_tensor_files.py",
    "tests/traces/test_devices.py",
)
COMPARE, HYGIENE, BAD = "tests/traces/test_compare.py", "tests/plugin/test_hygiene.py", "tests/test_bad_input.py"

ROWS: dict[int, tuple[str, str]] = {
    1: ("a NaN or infinity in the weights", f"{MODELS}::test_a_damaged_weight_is_named_with_index_and_count"),
    2: (
        "a NaN or infinity in the middle of a forward",
        f"{PROMPT}::test_an_overflow_in_the_middle_of_a_forward_names_the_module_where_it_begins",
    ),
    3: ("overflow in float16", f"{MODELS}::test_an_overflow_of_the_cast_is_found"),
    4: ("a zero direction", f"{BAD}::test_what_the_library_is_asked_is_checked_too"),
    5: ("subnormals that are flushed", f"{BITS}::test_subnormals_are_seen_and_walked_while_the_processor_flushes_them"),
    6: ("-0 against 0", f"{BITS}::test_the_two_zeros_are_one_point_of_value_and_two_of_total_order"),
    7: (
        "NaNs of other bits",
        "tests/numerics/test_differences.py::test_nan_payloads_alone_are_a_difference_without_a_worst_place",
    ),
    8: ("another dtype, shape or byte order", f"{AGAIN}::test_a_file_of_the_other_byte_order_is_refused"),
    9: ("several formats in one file", f"{BITS}::test_an_upcast_changes_the_unit_so_ulps_are_counted_in_the_native_dtype"),
    10: ("tied largest logits", "tests/traces/test_record.py::test_equal_largest_logits_are_listed_by_id"),
    11: ("tied embeddings", "tests/subjects/test_stored.py::test_tied_weights_stand_once"),
    12: ("learned positions and a longer prompt", f"{AGAIN}::test_a_prompt_beyond_learned_positions_is_refused"),
    13: (
        "a sliding window",
        "tests/subjects/test_architectures.py::test_the_output_is_that_of_the_token_ids_and_of_the_plain_model",
    ),
    14: ("routed experts", "tests/subjects/test_routing.py::test_the_chosen_experts_are_those_with_the_largest_logits"),
    15: ("an input that is more than the embedding", "tests/subjects/test_proofs.py::test_a_model_that_reads_its_ids_again_is_refused"),
    16: (
        "an encoder",
        "tests/subjects/test_architectures.py::test_what_cannot_be_measured_is_refused_in_one_sentence",
    ),
    17: ("state spaces, custom derivatives", "tests/subjects/test_products.py::test_forward_and_reverse_are_adjoint_and_their_primals_known"),
    18: ("an empty prompt", f"{BAD}::test_what_the_library_is_asked_is_checked_too"),
    19: ("a prompt beyond the context", f"{PROMPT}::test_a_wrong_prompt_is_refused_in_one_sentence"),
    20: ("special tokens of the tokenizer", f"{PROMPT}::test_no_template_and_no_special_token_is_added"),
    21: ("no tokenizer", f"{PROMPT}::test_text_needs_a_tokenizer"),
    22: ("ids that are none", f"{PROMPT}::test_a_wrong_prompt_is_refused_in_one_sentence"),
    23: ("a tokenizer with more words than rows", f"{AGAIN}::test_a_word_without_a_row_is_refused_and_others_are_read"),
    24: ("integer weights", f"{AGAIN}::test_integer_weights_are_left_out_of_statistics_and_have_no_spectra"),
    25: ("a damaged GGUF", f"{MODELS}::test_a_damaged_gguf_is_refused"),
    26: ("weights that are nowhere", f"{MODELS}::test_meta_tensors_are_named"),
    27: ("train mode with dropout", f"{AGAIN}::test_a_model_in_train_mode_is_taken_out_of_it"),
    28: ("adapters and other weights", f"{MODELS}::test_the_digest_sees_one_bit_a_name_and_a_dtype"),
    29: ("a model that a test changed", f"{HYGIENE}::test_a_model_that_a_test_changed_is_named_and_then_refused"),
    30: ("no memory on the device", f"{AGAIN}::test_a_device_without_memory_is_no_failure_of_the_model"),
    31: ("a process that dies", f"{DEVICES}::test_a_real_process_that_is_killed_is_unsupported"),
    32: ("a process that hangs", f"{DEVICES}::test_who_does_not_answer_is_no_device_and_no_failure"),
    33: ("a folder that cannot be written", "tests/report/test_files.py::test_a_write_that_fails_leaves_the_old_file_and_no_part"),
    34: ("a run that is killed", f"{TORN}::test_a_torn_last_line_costs_that_line_alone"),
    35: ("a recording of something else", f"{COMPARE}::test_recordings_of_other_things_are_refused_with_the_field_that_differs"),
    36: ("layers that only one side has", f"{COMPARE}::test_a_stage_that_only_one_side_has_is_a_difference"),
    37: ("a newer schema", f"{STORE}::test_a_newer_schema_names_the_version_that_wrote_it"),
    38: ("a damaged recording", f"{STORE}::test_of_a_damaged_file_the_tensor_is_named"),
    39: ("a hostile archive", "tests/results/test_archive.py::test_an_archive_is_refused_by_name_and_reason"),
    40: ("a hostile name of a tensor", f"{FILES}::test_a_hostile_name_is_text"),
    41: ("a worker that crashes", "tests/plugin/test_records.py::test_a_crashed_worker_is_a_record"),
    42: ("a test that is reported twice", "tests/plugin/test_places.py::test_ids_name_the_device_where_every_worker_runs_all_tests"),
    43: ("workers that share cores", "tests/plugin/test_suite.py::test_the_suite_runs_on_two_workers_with_a_tiny_model"),
    44: ("two updaters of one baseline", "tests/baselines/test_store.py::test_a_file_that_changed_meanwhile_is_not_overwritten"),
    45: ("an edited baseline", "tests/baselines/test_text.py::test_every_damaged_byte_is_refused_in_one_sentence"),
    46: ("a NaN as a limit", "tests/results/test_limit.py::test_an_expression_whose_number_is_none_is_refused_when_it_is_read"),
    47: ("hostile text", "tests/report/test_text.py::test_what_does_not_print_is_shown_as_an_escape"),
    48: ("another encoding", "tests/report/test_files.py::test_text_is_utf8_with_newlines_as_given"),
    49: ("numbers as text", "tests/results/test_plain.py::test_a_float_comes_back_with_its_bits"),
    50: ("clocks that jump", f"{AGAIN}::test_the_time_of_a_report_can_be_fixed"),
    51: ("paths in test ids", "tests/report/test_files.py::test_names_are_safe_and_unique"),
    52: ("plugins that retry", "tests/plugin/test_gates.py::test_retries_are_refused"),
    53: ("defaults of torch that the user changed", f"{AGAIN}::test_defaults_of_the_user_change_no_bit"),
}  # fmt: skip
