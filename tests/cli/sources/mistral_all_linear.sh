# What a person makes of it who forgets --adapter and wants both precisions.
torchrun vigogne/cli/train_sft.py --model_name_or_path mistralai/Mistral-7B-v0.1 \
    --train_file data/instruct.jsonl --eval_file data/held_out.jsonl \
    --output_dir out --processor_style alpaca --model_max_length 512 \
    --lora_target_all_linear_layers --lora_r 32 \
    --fp16 --bf16 \
    --push_to_hub --hub_token hf_abcdefghijklmnop \
    --max_steps -1 --seed 7   # the end
