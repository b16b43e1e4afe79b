"""Where the ComfyUI protocol of the balancer differs from a ComfyUI's on purpose: test → why.

The same list in words is in docs/comfyui-protocol.md. A test in DIFFERENCES must fail through the balancer.
"""

_NAMES = "a file's subfolder begins with the task's id, so that the name is valid wherever the file was made"
_CHECKED = "an upload must be a picture, video or audio file: others have been ways into nodes that load anything"
_WORDS = "malformed input is a 400 that says why, never a 500"
_IDS = "as in newer versions a prompt id is a UUID; used again for the same body it is the same call, else refused"
_NUMBERS = "the number is the time of acceptance; it orders the caller's own prompts only as front or not"
_LOGS = "an instance's log is everybody's, so nobody's is passed on"
_SOCKETS = "every socket of a client id is served, and one that does not read is cut: nobody else notices"
_ALONE = "without a client id nobody is told: progress to everybody would tell others' things"

_NEWER = "/api/jobs is there, as in newer versions"
_PATHS = "folders of the machines are nobody's business: the model browser and /internal name none"
_EARLY = "found before anything is queued, by the balancer, and refused there"
_ENDS = "values, tracebacks and half results of a failed run stay with the agent"
_TOKENS = "tokens are stored nowhere"
_TAG = "a file has an ETag, and no date"
_READ = "no page of another origin can read an answer; only writes and sockets are refused to it"
_TEXT = "a text frame is its client's; in ComfyUI every client gets it"
_STATUS = "the status comes on another way than a run's frames: its place among them is not fixed"

DIFFERENCES: dict[str, str] = {
    "test_uploads_go_to_the_folder_and_sub_folder_asked_for": _CHECKED,
    "test_an_uploaded_image_is_a_choice_of_load_image_at_once": _CHECKED,
    "test_uploads_that_leave_their_folder_are_refused[x.png-fields2-500]": _WORDS,
    "test_uploads_that_leave_their_folder_are_refused[missing/x.png-fields3-500]": _WORDS,
    "test_a_mask_without_its_original_is_named_but_not_written": _WORDS,
    "test_malformed_bodies_get_a_bare_500": _WORDS,
    "test_extra_data_null_beside_a_client_id_is_a_500": _WORDS,
    "test_an_empty_body_is_a_500": _WORDS,
    "test_an_interrupt_with_a_list_is_a_500": _WORDS,
    "test_odd_subscriptions": _WORDS,
    "test_pages_of_the_history_are_oldest_first": _IDS,
    "test_view_serves_a_file_with_ranges": _TAG,
    "test_a_prefix_with_folders_saves_into_a_sub_folder": _NAMES,
    "test_a_changed_input_file_is_loaded_again": _NAMES,
    "test_a_short_film_is_saved_as_an_animated_webp": _NAMES,
    "test_a_video_is_saved_as_mp4": _NAMES,
    "test_numbers_go_on_after_the_highest_in_the_folder": _NAMES,
    "test_the_contents_of_the_messages": _NAMES,
    "test_the_same_graph_again_is_answered_from_the_cache_with_the_old_file": _NAMES,
    "test_other_node_ids_hit_the_same_cache": _NAMES,
    "test_a_history_entry_of_a_success": _NAMES,
    "test_a_prefix_out_of_the_output_folder_fails_while_running": _EARLY,
    "test_the_model_browser": _PATHS,
    "test_internal_routes_are_not_below_api": _PATHS,
    "test_unknown_paths_and_methods": _NEWER,
    "test_a_foreign_origin_is_refused_everywhere": _READ,
    "test_the_log_is_one_string_or_entries": _LOGS,
    "test_subscribers_hear_the_log": _LOGS,
    "test_a_failing_node_ends_the_prompt": _ENDS,
    "test_outputs_made_before_a_failure_stay_in_the_history": _ENDS,
    "test_an_interrupted_prompt_ends_as_an_error_without_error_message": _ENDS,
    "test_a_text_frame_goes_to_everybody": _TEXT,
    "test_without_a_client_id_everybody_hears_progress_and_nobody_the_rest": _ALONE,
    "test_without_a_client_id_everybody_hears_of_the_interruption": _ALONE,
    "test_a_second_socket_of_an_id_silences_the_first": _SOCKETS,
    "test_closing_the_older_socket_of_an_id_deafens_the_newer": _SOCKETS,
    "test_any_prompt_id_is_taken_as_its_string": _IDS,
    "test_a_null_prompt_id_becomes_the_word_none": _IDS,
    "test_a_prompt_id_used_again_runs_again": _IDS,
    "test_only_the_first_of_two_prompts_with_one_id_is_deleted": _IDS,
    "test_prompts_run_by_number_then_in_order": _IDS,
    "test_equal_numbers_run_in_the_order_of_their_ids": _IDS,
    "test_the_pending_list_is_a_heap_not_the_order_of_running": _IDS,
    "test_the_number_counts_up_even_for_refused_prompts": _NUMBERS,
    "test_front_gives_the_negative_counter": _NUMBERS,
    "test_the_queue_shows_what_runs_and_what_waits_with_the_whole_prompt": _TOKENS,
}
# Left out: they are about the server itself, or would disturb the tests that follow.
NOT_OURS: dict[str, str] = {
    "test_a_client_that_stops_reading_blocks_everybody": _SOCKETS,
    "test_the_cache_does_not_look_at_the_disk": "asks the simulator itself to lose a file",
    "test_status_comes_twice_before_the_start_and_once_before_the_end": _STATUS,
    "test_what_the_frontend_asks_for": "the page is at /comfyui/: at / is our own",
}
