python train_sft.py --model_name_or_path tiiuae/falcon-7b --trust_remote_code false \
  --add_special_tokens '{"pad_token": "<|pad|>", "bos_token": ">>ABSTRACT<<"}' \
  --add_tokens '["<a>", "<b>"]' \
  --train_file data/chat.jsonl --processor_style vigogne_chat_v3 --add_bos_token false \
  --adapter lora --lora_target_all_linear_layers --load_in_8bit \
  --learning_rate 1e-4 --output_dir out
